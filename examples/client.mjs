// The sandbox from JavaScript or TypeScript: npm install @grpc/grpc-js @grpc/proto-loader, then
//   node examples/client.mjs 127.0.0.1:50061
import path from "node:path";
import { fileURLToPath } from "node:url";
import { createRequire } from "node:module";

const require = createRequire(path.join(process.cwd(), "client.cjs")); // finds the packages where it is started
const grpc = require("@grpc/grpc-js");
const { loadSync } = require("@grpc/proto-loader");

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), "..", "proto");
const definition = loadSync("sandbox_server/v1/sandbox.proto", {
  includeDirs: [root], keepCase: true, enums: String, longs: Number, defaults: true,
});
const { SandboxService } = grpc.loadPackageDefinition(definition).sandbox_server.v1;
const client = new SandboxService(process.argv[2] ?? "127.0.0.1:50061", grpc.credentials.createInsecure());

const call = (method, request, seconds) =>
  new Promise((resolve, reject) =>
    client[method](request, { deadline: Date.now() + 1000 * seconds }, (error, answer) => (error ? reject(error) : resolve(answer))));

const info = await call("GetInfo", {}, 5);
console.log(info.runtimes.map((runtime) => `${runtime.name}: ${runtime.interpreter}`).join("; "));

const request = { code: "def double(x): return x + x", tests: "assert double(2) == 4", limits: { wall_time_ms: 2000 } };
const answer = await call("Execute", request, 10);
console.log(answer.verdict, `${answer.tests.assertions_run} assertion`);

// Many at once: answers come as they finish, told apart by request_id.
const stream = client.ExecuteStream();
const verdicts = {};
stream.on("data", ({ request_id, refusal, verdict }) => (verdicts[request_id] = refusal ? refusal.message : verdict));
const ended = new Promise((resolve, reject) => stream.on("end", resolve).on("error", reject));
for (const number of [1, 2, 3]) stream.write({ ...request, request_id: `${number}`, tests: `assert double(1) == ${number}` });
stream.end();
await ended;
console.log(verdicts);
client.close();
