"""A local S3 server for tests: SeaweedFS with one bucket, deleted at the end."""

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.support.ports import free_ports

BUCKET = "farm"
PARTS = ("master", "volume", "filer", "s3", "admin")
PORTS = [f"{part}.{port}" for part in PARTS for port in ("port", "port.grpc")]
OPTIONS = {
    "bucket": BUCKET,
    "s3.autoCreateBucket": "false",  # writes do not create a missing bucket, as on AWS
    "s3.port.iceberg": "0",
    "s3.port.lance": "0",
    "webdav": "false",
    "admin.ui": "false",
    "master.telemetry": "false",
    "master.volumeSizeLimitMB": "64",
}


class S3Server:
    """A server process. `stop` kills it; `start` restarts it at the same URL with its data."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        self.folder, self._address = folder, address
        self.log = folder / "weed.log"
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self._ports["s3.port"]
        self.env = {
            "AWS_ENDPOINT_URL_S3": f"http://{address}:{self.port}",
            "AWS_ACCESS_KEY_ID": "farm-key",
            "AWS_SECRET_ACCESS_KEY": "farm-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "no_proxy": address,
            "AWS_CONFIG_FILE": str(folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        }
        self.url = f"s3://{BUCKET}/prefix"

    def start(self, patience_s: float = 60) -> None:
        """Start the server, and wait until it accepts a write."""
        options = OPTIONS | {name: str(port) for name, port in self._ports.items()}
        options |= {"ip": self._address, "ip.bind": self._address}
        options |= {"dir": str(self.folder / "data"), "admin.dataDir": str(self.folder / "admin")}
        options |= {f"{name}.localSocket": str(self.folder / name) for name in ("s3", "filer")}
        (self.folder / "data").mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [f"{sysconfig.get_path('scripts')}/weed", "-logtostderr", "mini"]
                + [f"-{name}={value}" for name, value in options.items()],
                cwd=self.folder,
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + patience_s
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"no S3 server:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill the server without a shutdown, as in a power cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        for port in self._ports.values():  # its parts' sockets, for which there is no option
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

    def _answers(self) -> bool:
        client = boto3.session.Session(
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name=self.env["AWS_DEFAULT_REGION"],
        ).client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL_S3"],
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5),
        )
        try:
            client.put_object(Bucket=BUCKET, Key="up", Body=b"up")
            client.delete_object(Bucket=BUCKET, Key="up")
        except (BotoCoreError, ClientError):
            return False
        else:
            return True
        finally:
            client.close()


@contextmanager
def s3_server(folder: Path, address: str = "127.0.0.1") -> Iterator[S3Server]:
    """Run a server that keeps its data and its log in `folder`, which is deleted at the end.

    address: the one of this host that it listens at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = S3Server(folder, address)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@contextmanager
def s3_environment(server: S3Server) -> Iterator[None]:
    """Set this process's environment so that boto3 finds only this server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in server.env.items():
            patch.setenv(name, value)
        yield


def _pump(source: socket.socket, sink: socket.socket, loses: threading.Semaphore | None) -> None:
    """Forward data from one socket to the other, until it ends or a response is to be lost."""
    with suppress(OSError):
        while data := source.recv(65536):
            is_final = not data.startswith(b"HTTP/1.1 100")
            if loses and is_final and loses.acquire(blocking=False):
                break
            sink.sendall(data)
    _hang_up(source)
    _hang_up(sink)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def lossy(server: S3Server) -> Iterator[Callable[[], None]]:
    """Run a proxy in front of the server; each call of the yielded function loses one response."""
    loses = threading.Semaphore(0)
    listener = socket.create_server(("127.0.0.1", 0))
    clients = [listener]

    def carry(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            asking = threading.Thread(target=_pump, args=(client, upstream, None))
            asking.start()
            _pump(upstream, client, loses)
            asking.join()

    def serve() -> None:
        with suppress(OSError):
            while True:
                clients.append(listener.accept()[0])
                threads.submit(carry, clients[-1])

    with (
        listener,
        ThreadPoolExecutor(32) as threads,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{listener.getsockname()[1]}")
        threads.submit(serve)
        try:
            yield loses.release
        finally:
            for client in clients:
                _hang_up(client)
