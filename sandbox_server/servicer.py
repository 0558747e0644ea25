"""The gRPC service: read, validate, run, answer."""

from __future__ import annotations

from typing import Any

import grpc

from sandbox_server.errors import InvalidJob, Unsupported
from sandbox_server.jobs import SandboxInfo
from sandbox_server.sandbox import Sandbox
from sandbox_server.statuses import Context, errors_to_status
from sandbox_server.v1 import sandbox_pb2 as pb
from sandbox_server.validation import validate
from sandbox_server.wire import info_to_wire, job_from_wire, outcome_to_wire, request_from_bytes


class SandboxServicer:
    """Serve one sandbox.

    Args:
        sandbox: what runs the jobs.
        info: what it is; asked once, because nothing of it changes while it lives.
    """

    def __init__(self, sandbox: Sandbox, info: SandboxInfo) -> None:
        self._sandbox = sandbox
        self._info = info
        self._info_message = info_to_wire(info)

    @errors_to_status
    async def execute(self, request: pb.ExecuteRequest | InvalidJob, _context: Context) -> pb.ExecuteResponse:
        """Run one program. gRPC cancels this when the caller goes away or its deadline passes; that kills the run."""
        if isinstance(request, InvalidJob):
            raise request
        job = job_from_wire(request)
        validate(job, self._info)
        return outcome_to_wire(await self._sandbox.run(job))

    @errors_to_status
    async def execute_stream(self, _requests: object, _context: Context) -> None:
        """Refuse: streams are not served yet."""
        raise Unsupported("ExecuteStream is not served by this version; use Execute")

    @errors_to_status
    async def get_info(self, _request: pb.GetInfoRequest, _context: Context) -> pb.GetInfoResponse:
        """Tell what this server is."""
        return self._info_message

    def handlers(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """Describe the methods to a gRPC server.

        Not by the generated registration: its deserialiser raises on malformed bytes, which gRPC answers as INTERNAL.
        """
        return {
            "Execute": grpc.unary_unary_rpc_method_handler(
                self.execute,
                request_deserializer=request_from_bytes,
                response_serializer=pb.ExecuteResponse.SerializeToString,
            ),
            "ExecuteStream": grpc.stream_stream_rpc_method_handler(
                self.execute_stream,
                request_deserializer=request_from_bytes,
                response_serializer=pb.ExecuteResponse.SerializeToString,
            ),
            "GetInfo": grpc.unary_unary_rpc_method_handler(
                self.get_info,
                request_deserializer=pb.GetInfoRequest.FromString,
                response_serializer=pb.GetInfoResponse.SerializeToString,
            ),
        }
