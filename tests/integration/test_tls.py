"""TLS to a real redis-server: the right certificate is accepted, and every wrong one refused with the reason."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swell import Client
from swell.bus.link import Link
from swell.errors import BrokerError, BrokerRefused, ConfigError
from tests.conftest import start_server, stop_server
from tests.integration.services import Service
from tests.integration.test_up import swell

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl on PATH")

#: How the tests name the server: what a certificate is verified for.
HOST = "localhost"
TlsUrl = Callable[..., str]


class Authority:
    """Makes certificates."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.key, self.certificate = directory / f"{name}.key", directory / f"{name}.crt"
        self._run(
            "req", "-x509", *self._new_key(self.key), "-out", self.certificate, "-subj", f"/CN={name}", "-days", "2"
        )

    def _run(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)

    @staticmethod
    def _new_key(key: Path) -> tuple[object, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key)

    def issue(self, name: str, host: str = HOST, days: int = 2) -> tuple[Path, Path]:
        """The certificate and key files of one for `host`."""
        key, request, made = (self.directory / f"{name}.{kind}" for kind in ("key", "csr", "crt"))
        alternative = ("-addext", f"subjectAltName=DNS:{host}")
        self._run("req", *self._new_key(key), "-out", request, "-subj", f"/CN={host}", *alternative)
        signer = ("-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-copy_extensions", "copy")
        self._run("x509", "-req", "-in", request, *signer, "-days", days, "-out", made)
        return made, key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def serve(tmp_path: Path, authority: Authority) -> Iterator[TlsUrl]:
    """Start a server with a certificate; returns its URL, to which options are added."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on PATH")
    servers = []

    def serve(certificate: tuple[Path, Path], *, clients: str = "no") -> str:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        files = {"tls-cert-file": certificate[0], "tls-key-file": certificate[1]}
        trust = {"tls-ca-cert-file": authority.certificate, "tls-auth-clients": clients}
        servers.append(start_server("redis-server", tmp_path, **{"tls-port": port}, **files, **trust))
        return f"rediss://{HOST}:{port}/0"

    yield serve
    for server in servers:
        stop_server(server)


async def ping(url: str) -> None:
    link = Link(url, "test")
    try:
        assert await link.call("PING") == b"PONG"
    finally:
        await link.close()


async def test_the_whole_way_works_with_a_certificate_of_the_authority_named(
    serve: TlsUrl, authority: Authority, tmp_path: Path
) -> None:
    url = f"{serve(authority.issue('server'))}?ssl_ca_certs={authority.certificate}"
    services = [Service(role, url, "tls", tmp_path) for role in ("manager", "worker")]
    try:
        for service in services:
            await service.ready()
        async with Client.connect(url, namespace="tls") as client:
            await (await client.spawn("notary", keys=["a"])).wait()
            assert await client.ask("notary/a", "process", type=int) == services[1].pid
    finally:
        for service in services:
            service.kill()
    doctor = swell("doctor", "--redis", url, "--namespace", "tls")
    assert "ok    transport: TLS, verified" in doctor.stdout


@pytest.mark.parametrize(
    ("host", "days", "reason"),
    [
        ("other.example", 2, "Hostname mismatch, certificate is not valid for 'localhost'"),
        (HOST, -1, "certificate has expired"),
    ],
)
async def test_a_certificate_for_another_name_or_of_the_past_is_refused(
    serve: TlsUrl, authority: Authority, tmp_path: Path, host: str, days: int, reason: str
) -> None:
    url = f"{serve(authority.issue('server', host, days))}?ssl_ca_certs={authority.certificate}"
    with pytest.raises(BrokerRefused, match=f"its certificate is not accepted: {reason}"):
        await ping(url)
    worker = Service("worker", url, "tls", tmp_path)
    assert worker.process.wait(30) == 2
    assert f"its certificate is not accepted: {reason}" in worker.log.read_text()
    said = swell("agents", "--redis", url)
    assert (said.returncode, reason in said.stderr) == (1, True)


async def test_a_certificate_of_an_authority_that_was_not_named_is_refused(
    serve: TlsUrl, authority: Authority, tmp_path: Path
) -> None:
    url = serve(authority.issue("server"))
    stranger = Authority(tmp_path, "stranger")
    for trust in ("", f"?ssl_ca_certs={stranger.certificate}"):
        with pytest.raises(BrokerRefused, match="its certificate is not accepted: "):
            await ping(url + trust)


async def test_a_server_that_asks_for_our_certificate_gets_it(serve: TlsUrl, authority: Authority) -> None:
    url = f"{serve(authority.issue('server'), clients='yes')}?ssl_ca_certs={authority.certificate}"
    certificate, key = authority.issue("client", "client")
    await ping(f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}")
    # In TLS 1.3 we are told only after the handshake, and the connection may be gone before we read why.
    with pytest.raises(BrokerError):
        await ping(url)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("ssl_cert_reqs=none", "ssl_cert_reqs=none: the server's certificate is not verified"),
        ("ssl_check_hostname=false", "ssl_check_hostname is off: a certificate for any other name would do"),
    ],
)
async def test_giving_up_verification_works_and_is_said_in_the_log_and_by_doctor(
    serve: TlsUrl, authority: Authority, tmp_path: Path, option: str, said: str
) -> None:
    url = f"{serve(authority.issue('server', 'other.example'))}?ssl_ca_certs={authority.certificate}&{option}"
    await ping(url)
    worker = Service("worker", url, "tls", tmp_path)
    try:
        await worker.ready()
        assert [line["event"] for line in worker.logged() if line["level"] == "warning"] == [f"TLS is not safe: {said}"]
    finally:
        worker.kill()
    assert f"warn  transport: {said}" in swell("doctor", "--redis", url).stdout


def test_verification_is_asked_for_whatever_the_librarys_defaults_are(authority: Authority) -> None:
    link = Link(f"rediss://{HOST}/0?ssl_ca_certs={authority.certificate}", "test")
    context = link._connection.ssl_context.context  # type: ignore[attr-defined]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    # Of the machine's own authorities none is left.
    assert [dict(x[0] for x in ca["subject"])["commonName"] for ca in context.get_ca_certs()] == ["authority"]


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path"])
def test_a_file_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: there is no /no/such"):
        Link(f"rediss://{HOST}/0?{name}=/no/such", "test")


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"TLS cannot be set up with .*ca\.pem"):
        Link(f"rediss://{HOST}/0?ssl_ca_certs={tmp_path / 'ca.pem'}", "test")
