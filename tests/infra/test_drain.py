"""A node that is about to go tells Ray, on EC2 and on Kubernetes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
import yaml
from google.protobuf.json_format import MessageToDict
from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoReply

from render_farm.farm.open_cluster import NODES
from tests.servers.ray_head import Head

INFRA = Path(__file__).parents[2] / "infra"

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def head() -> Iterator[Head]:
    with Head("127.0.0.2", {"RAY_AUTH_MODE": "disabled"}) as head:
        yield head


@contextmanager
def metadata_service(not_yet: int) -> Iterator[tuple[str, list[str]]]:
    """EC2's: a notice after some questions without one, and for those with a session only."""
    asked: list[str] = []

    class Service(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            assert self.path == "/latest/api/token"
            assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            self._answer(200, b"session")

        def do_GET(self) -> None:
            asked.append(self.path)
            if self.headers["X-aws-ec2-metadata-token"] != "session":
                self._answer(401, b"")
            else:
                self._answer(404 if len(asked) <= not_yet else 200, b'{"action": "terminate"}')

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def farewell(head: Head) -> dict[str, str]:
    """What the cluster knows of why its one node went; having nothing to do it goes at once."""
    with grpc.insecure_channel(head.address, (("grpc.enable_http_proxy", 0),)) as channel:
        answer = channel.unary_unary(NODES)(b"", timeout=60)
    (node,) = GetAllNodeInfoReply.FromString(answer).node_info_list
    return MessageToDict(node.death_info)


def run(head: Head, *command: str, **environment: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        command, check=True, timeout=300, env={**head.environment, "PATH": path, **environment}
    )


def test_a_spot_notice_drains_the_node(head: Head):
    assert not farewell(head)
    with metadata_service(not_yet=1) as (url, asked):
        run(head, str(INFRA / "drain-on-notice.sh"), head.address, EC2_METADATA=url)
    assert asked == ["/latest/meta-data/spot/instance-action"] * 2
    assert farewell(head)["reason"] == "AUTOSCALER_DRAIN_PREEMPTED"


def test_a_pod_that_ends_drains_its_node_and_waits_until_its_workers_have_left(head: Head):
    """The pod's hook, with what KubeRay sets there; workers are known by the title Ray gives."""
    documents = yaml.safe_load_all((INFRA / "kuberay-rayjob.yaml").read_text())
    (job,) = [document for document in documents if document["kind"] == "RayJob"]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    hook = container["lifecycle"]["preStop"]["exec"]["command"]
    worker = subprocess.Popen(["ray::WorkerActor.run", "600"], executable="/bin/sleep")

    def work_until_drained() -> None:
        deadline = time.monotonic() + 240
        while not farewell(head) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(2)
        worker.terminate()
        worker.wait()

    working = threading.Thread(target=work_until_drained)
    working.start()
    run(head, *hook, RAY_ADDRESS=head.address)
    left = worker.returncode is not None
    working.join()
    assert left, "the pod would have ended before its worker"
    assert farewell(head)["reason"] == "AUTOSCALER_DRAIN_PREEMPTED"
