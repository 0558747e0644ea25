// The sandbox from Go: one program on a call of its own, then several on one stream.
//
//	protoc -I proto --go_out=. --go-grpc_out=. --go_opt=Msandbox_server/v1/sandbox.proto=example/sandboxpb \
//	    --go-grpc_opt=Msandbox_server/v1/sandbox.proto=example/sandboxpb sandbox_server/v1/sandbox.proto
//	go run client.go 127.0.0.1:50061
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"example/sandboxpb"

	"google.golang.org/grpc"
)

func main() {
	// Of every grpc-go 1.x; from 1.63 on, NewClient with credentials/insecure says the same.
	conn, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	client := sandboxpb.NewSandboxServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	answer, err := client.Execute(ctx, &sandboxpb.ExecuteRequest{
		Code: "def double(x): return x + x", Tests: "assert double(2) == 4",
	})
	if err != nil { // the sandbox's trouble: codes.Unavailable and codes.ResourceExhausted are worth another try
		log.Fatal(err)
	}
	fmt.Println(answer.Verdict, answer.Tests.AssertionsRun, "assertion")

	// Many at once: answers come as they finish, told apart by request_id.
	stream, err := client.ExecuteStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for number := 1; number <= 3; number++ {
		request := &sandboxpb.ExecuteRequest{
			RequestId: fmt.Sprint(number),
			Code:      "def double(x): return x + x",
			Tests:     fmt.Sprintf("assert double(1) == %d", number),
		}
		if err := stream.Send(request); err != nil {
			log.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		log.Fatal(err)
	}
	verdicts := map[string]string{}
	for {
		answer, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		if answer.Refusal != nil {
			verdicts[answer.RequestId] = answer.Refusal.Message
		} else {
			verdicts[answer.RequestId] = answer.Verdict.String()
		}
	}
	fmt.Println(verdicts)
}
