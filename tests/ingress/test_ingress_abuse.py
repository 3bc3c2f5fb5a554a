"""Bad requests are refused with the parameter's name, broken pictures fail, nothing piles up."""

import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from farm.ingress.middleware.concurrency_limits import STREAMS
from tests.support.abuse import ANY, PICTURE, SMALL, STABILITY, Abuse, as_form, as_json
from tests.support.abuse_bodies import bad_requests
from tests.support.broken_pictures import mutated_pictures
from tests.support.farm_jobs import wait_for
from tests.support.ingress_server import serving
from tests.support.inline_door import inline_serving
from tests.support.programs import running_children

MOST_GROWN = 30e6  # bytes, from half of the load to all of it
THREADS = 8
BOUND_S = 120.0  # until jobs of half of the pictures have ended


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def http(store: Path) -> Iterator[httpx2.Client]:
    """A farm in this process."""
    with (
        inline_serving(store, models=["tiny"], max_body=2**20) as url,
        httpx2.Client(base_url=url, timeout=120) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def served_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def served(served_store: Path, ray_cluster: None) -> Iterator[httpx2.Client]:
    """A farm on Ray Serve, whose processes are watched."""
    with (
        serving(served_store, models=["tiny"], max_body=2**20) as url,
        httpx2.Client(base_url=url, timeout=120) as client,
    ):
        yield client


def test_500_bad_requests_are_refused_by_name(http: httpx2.Client, store: Path) -> None:
    video = rendered(http, PICTURE, seed=1)
    assert ends_of(http, [video]) == ["completed"]
    statuses = set(refuse_all(http, bad_requests(500, video)))
    assert statuses <= {400, 404, 413, 415, 416, 422}
    assert [each["id"] for each in http.get("/v1/videos").json()["data"]] == [video]
    nothing_is_open(http, store)


@pytest.mark.slow
def test_500_bad_requests_leave_nothing_in_memory(served: httpx2.Client) -> None:
    video = rendered(served, PICTURE, seed=1)
    assert ends_of(served, [video]) == ["completed"]
    asked = bad_requests(500, video)
    refuse_all(served, asked[:250])
    before = memory()
    refuse_all(served, asked[250:])
    assert grown(before) < MOST_GROWN


@pytest.mark.slow
def test_300_mutated_pictures_fail_alone(served: httpx2.Client, served_store: Path) -> None:
    pictures = mutated_pictures(300)
    ends = render_all(served, pictures[:150])
    before = memory()
    ends += render_all(served, pictures[150:])
    assert grown(before) < MOST_GROWN
    assert ends["refused"] > 50
    assert ends["completed"] > 20
    assert ends["failed"] > 20
    assert ends_of(served, [rendered(served, PICTURE, seed=2)]) == ["completed"]
    nothing_is_open(served, served_store)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seconds": 3, "fps": "fast"}, "fps"),
        ({"seconds": 1e300}, "num_frames"),
        ({"variant": "fp16"}, "variant"),
    ],
)
def test_the_one_at_fault_is_named(
    http: httpx2.Client, fields: dict[str, str | float], param: str
) -> None:
    small = {name: value for name, value in SMALL.items() if name != "num_frames"}
    refuse(http, as_json("/v1/videos/check", small | fields, param))


def test_an_origin_that_is_none(http: httpx2.Client) -> None:
    answer = http.get("/v1/videos", headers={"Origin": "http://["})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "other_origin")


def test_a_range_that_goes_backward_is_no_range(http: httpx2.Client) -> None:
    video = rendered(http, PICTURE, seed=1)
    assert ends_of(http, [video]) == ["completed"]
    answer = http.get(f"/v1/videos/{video}/content", headers={"Range": "bytes=9-3"})
    assert answer.status_code == 200


def test_clients_that_go_away(http: httpx2.Client, store: Path) -> None:
    request = as_form("/v1/videos", SMALL | {"seed": 3}, None).options
    body = http.build_request("POST", "/v1/videos", **request)
    head = "".join(f"{name}: {value}\r\n" for name, value in body.headers.items())
    for kept in (0, 1, len(body.read()) // 2, len(body.read()) - 1):
        with socket.create_connection((body.url.host, body.url.port or 80)) as gone:
            gone.sendall(f"POST /v1/videos HTTP/1.1\r\n{head}\r\n".encode() + body.content[:kept])
    assert http.get("/readyz").status_code == 200
    nothing_is_open(http, store)


@pytest.mark.slow
def test_event_streams_shut_nobody_out(served: httpx2.Client, served_store: Path) -> None:
    fields = {name: str(value) for name, value in (SMALL | {"num_inference_steps": 900}).items()}
    files = {"input_reference": ("a", PICTURE)}
    video = served.post("/v1/videos", data=fields, files=files).json()["id"]
    served.post(f"/v1/videos/{video}/pause").raise_for_status()
    where = served.base_url.netloc.decode()
    asked = f"GET /v1/videos/{video}/events HTTP/1.1\r\nHost: {where}\r\n\r\n".encode()
    with ExitStack() as open_ones:
        streams = []
        for _ in range(2 * STREAMS):
            stream = socket.create_connection((served.base_url.host, served.base_url.port or 80))
            streams.append(open_ones.enter_context(stream))
            stream.sendall(asked)
        heads = [stream.recv(4096) for stream in streams]
        taken = [head.startswith(b"HTTP/1.1 200 ") for head in heads]
        assert 100 <= sum(taken) <= STREAMS // 2
        for stream, head in zip(streams, heads, strict=True):
            if not head.startswith(b"HTTP/1.1 200 "):
                answer = head + stream.makefile("rb").read()  # it is closed, so as not to be kept
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: 5\r\n" in answer
                assert b'"code":"overloaded"' in answer
        for path in ("/healthz", "/readyz", f"/v1/videos/{video}"):
            assert served.get(path, timeout=30).status_code == 200
        assert rendered(served, PICTURE, seed=5)

    def free() -> bool:
        with served.stream("GET", f"/v1/videos/{video}/events") as answer:
            return answer.status_code == 200

    wait_for(free)
    served.delete(f"/v1/videos/{video}").raise_for_status()
    wait_for(lambda: open_jobs(served) == 0)
    nothing_is_open(served, served_store)


def refuse_all(http: httpx2.Client, asked: Sequence[Abuse]) -> list[int]:
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda abuse: refuse(http, abuse), asked))


def refuse(http: httpx2.Client, abuse: Abuse) -> int:
    """The status, once the answer is found to be a refusal in the API's shape."""
    answer = http.request(abuse.method, abuse.path, **abuse.options)
    exchange = f"{abuse.method} {abuse.path} {str(abuse.options)[:300]}\n{answer.text[:500]}"
    assert answer.status_code in abuse.statuses, exchange
    assert len(answer.content) < 4096, exchange
    body = answer.json()
    if abuse.path.startswith(STABILITY):
        assert body.keys() == {"id", "name", "errors"}, exchange
        named = (f"{abuse.param}: ", f"Unknown parameter '{abuse.param}'")
        assert abuse.param is None or body["errors"][0].startswith(named), exchange
    else:
        error = body["error"]
        assert error.keys() == {"message", "type", "param", "code"}, exchange
        assert error["message"], exchange
        assert error["type"] == "invalid_request_error", exchange
        assert abuse.param in (ANY, error["param"]), exchange
    return answer.status_code


def rendered(http: httpx2.Client, picture: bytes, **fields: int) -> str:
    """The job of a picture; empty where it is refused."""
    form = {name: str(value) for name, value in (SMALL | fields).items()}
    answer = http.post("/v1/videos", data=form, files={"input_reference": ("a", picture)})
    if answer.status_code == 200:
        return str(answer.json()["id"])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input_reference")
    return ""


def ends_of(http: httpx2.Client, videos: Sequence[str]) -> list[str]:
    """How videos ended, once all have."""
    # One look for all, and not often: hundreds that poll would be what takes long.
    until = time.monotonic() + BOUND_S
    while open_jobs(http):
        assert time.monotonic() < until, "a job is stuck"
        time.sleep(0.5)
    answers = [http.get(f"/v1/videos/{video}").json() for video in videos]
    for video in answers:
        assert video["status"] == "completed" or video["error"]["message"], video
    return [str(video["status"]) for video in answers]


def render_all(http: httpx2.Client, pictures: Sequence[bytes]) -> Counter[str]:
    """How many were refused, completed or failed."""
    with ThreadPoolExecutor(THREADS) as threads:
        videos = list(
            threads.map(
                lambda n: rendered(http, pictures[n], num_inference_steps=1 + n % 2),
                range(len(pictures)),
            )
        )
    taken = [video for video in videos if video]
    return Counter({"refused": len(videos) - len(taken)}) + Counter(ends_of(http, taken))


def open_jobs(http: httpx2.Client) -> int:
    jobs = http.get("/v1/farm").json()["jobs"]
    return sum(sum(states.values()) for states in jobs.values())


def nothing_is_open(http: httpx2.Client, store: Path) -> None:
    assert open_jobs(http) == 0
    wait_for(lambda: not list((store / "open").glob("*")))


def memory() -> dict[int, int]:
    """Bytes in use by the coordinator and by each replica."""
    processes = running_children("ray::Coordinator", "ray::ServeReplica")
    found = {process.pid: process.memory_info().rss for process in processes}
    assert len(found) == 3
    return found


def grown(before: dict[int, int]) -> int:
    """By how much the one that grew the most did."""
    after = memory()
    return max(after[pid] - before[pid] for pid in before)
