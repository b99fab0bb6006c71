"""Settings: where they come from, what wins, what is refused by name, and what is never shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from swell.config import Settings, check_redis_url, load, mask_url, unsafe
from swell.errors import ConfigError


def refused(flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        load(flags or {}, environ or {})
    return raised.value


def test_without_any_setting_the_defaults_hold() -> None:
    assert load({}, {}) == Settings()


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "swell.toml"
    file.write_text('namespace = "file"\nshards = 2\nlease_ms = 700\n')
    environ = {"SWELL_CONFIG": str(file), "SWELL_NAMESPACE": "variable", "SWELL_SHARDS": "3"}
    settings = load({"namespace": "flag", "shards": None}, environ)
    assert (settings.namespace, settings.shards, settings.lease_ms) == ("flag", 3, 700)


def test_variables_are_converted_to_the_type_of_the_setting() -> None:
    settings = load({}, {"SWELL_SHARDS": "16", "SWELL_DRAIN_S": "2.5", "SWELL_PORT": "0", "SWELL_TOKEN": "123"})
    assert (settings.shards, settings.drain_s, settings.port, settings.token) == (16, 2.5, 0, "123")


def test_an_empty_variable_counts_as_not_given() -> None:
    assert load({}, {"SWELL_NAMESPACE": "", "SWELL_SHARDS": ""}) == Settings()


def test_variables_of_others_are_none_of_our_business() -> None:
    assert load({}, {"SWELL_UNKNOWN": "x", "PATH": "/bin", "NAMESPACE": "y"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shards", "0"),
        ("shards", "1025"),
        ("shards", "eight"),
        ("shards", "2.5"),
        ("lease_ms", "499"),
        ("lease_ms", "60001"),
        ("max_depth", "255"),
        ("mailbox", "0"),
        ("buffer", "255"),
        ("drain_s", "-1"),
        ("drain_s", "nan"),
        ("drain_s", "soon"),
        ("port", "65536"),
        ("port", "-1"),
        ("app", "swell.echo"),
        ("log_level", "loud"),
        ("log_format", "xml"),
        ("namespace", "a:b"),
        ("redis", "http://localhost"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_setting(name: str, value: str) -> None:
    error = refused(environ={f"SWELL_{name.upper()}": value})
    assert error.setting == name
    assert str(error).startswith(f"{name}: ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "swell.example"])
def test_a_host_that_others_can_reach_needs_a_token(host: str) -> None:
    assert refused({"host": host}).setting == "token"
    assert load({"host": host, "token": "secret"}, {}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host: str) -> None:
    assert load({"host": host}, {}).token == ""


def test_a_secret_may_be_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("from the file\n")
    assert load({}, {"SWELL_TOKEN_FILE": str(secret)}).token == "from the file"
    assert load({}, {"SWELL_TOKEN_FILE": str(secret), "SWELL_TOKEN": "direct"}).token == "direct"
    secret.write_text("redis://:pass@host:1/0")
    assert load({}, {"SWELL_REDIS_FILE": str(secret)}).redis == "redis://:pass@host:1/0"


def test_only_secrets_may_be_files(tmp_path: Path) -> None:
    file = tmp_path / "namespace"
    file.write_text("elsewhere")
    assert load({}, {"SWELL_NAMESPACE_FILE": str(file)}).namespace == "default"


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    error = refused(environ={"SWELL_TOKEN_FILE": str(tmp_path / "missing")})
    assert error.setting == "SWELL_TOKEN_FILE"
    assert "No such file" in str(error)


@pytest.mark.parametrize(
    ("text", "says"),
    [("shards = ", "is not TOML"), ('shardz = 3\nnamspace = "x"', "unknown settings: namspace, shardz")],
)
def test_a_file_with_mistakes_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "swell.toml"
    file.write_text(text)
    error = refused(environ={"SWELL_CONFIG": str(file)})
    assert error.setting == "SWELL_CONFIG"
    assert says in str(error)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in str(refused(environ={"SWELL_CONFIG": str(tmp_path / "missing")}))
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is not TOML" in str(refused(environ={"SWELL_CONFIG": str(binary)}))


@pytest.mark.parametrize("name", ["shards", "namespace"])
def test_a_file_value_of_the_wrong_type_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "swell.toml"
    file.write_text(f"{name} = [1]")
    assert refused(environ={"SWELL_CONFIG": str(file)}).setting == name


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6380/2",
        "redis://user:pass@host:6379/0",
        "rediss://[::1]:6379",
        "unix:///run/redis.sock",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_a_url_of_a_server_is_accepted(url: str) -> None:
    assert check_redis_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://:6379",
        "redis://host:abc",
        "redis://host:99999",
        "redis://host:0",
        "redis://host/zero",
        "redis://[::1",
    ],
)
def test_a_url_of_no_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="redis: "):
        check_redis_url(url)


@pytest.mark.parametrize("url", ["ftp://u:hunter2@h", "redis://u:hunter2@h:abc", "redis://u:hunter2@h/x"])
def test_a_refused_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_redis_url(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://user:hunter2@host/1", "rediss://user:***@host/1"),
        ("redis://user:a@b@host/1", "redis://user:***@host/1"),
        ("unix://user:hunter2@/run/redis.sock", "unix://user:***@/run/redis.sock"),
    ],
)
def test_a_masked_url_has_everything_but_the_password(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_masked_settings_show_no_secret() -> None:
    shown = load({"token": "hunter2", "redis": "redis://:hunter2@host/0"}, {}).masked()
    assert "hunter2" not in str(shown)
    assert shown["token"] == "***"
    assert Settings().masked()["token"] == ""


def test_settings_handed_to_another_process_arrive_as_they_are(tmp_path: Path) -> None:
    settings = load({"port": 0, "token": "secret", "drain_s": 1.5, "data_dir": str(tmp_path), "host": "0.0.0.0"}, {})
    assert load({}, settings.environ()) == settings
    assert load({}, Settings().environ()) == Settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().shards = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://h?password=s3cret", "user and password stand before the host"),
        ("redis://h?ssl_ca_certs=x", "ssl_ca_certs needs rediss://, redis:// is not TLS"),
        ("rediss://h?ssl_cert_reqs=perhaps", "ssl_cert_reqs is required, optional or none, not 'perhaps'"),
        ("redis://h?protocol=3", "there is no option 'protocol', only db, ssl_ca_certs"),
        ("redis://h?db=x", "db must be a database number"),
    ],
)
def test_an_option_of_the_url_that_is_unknown_or_means_nothing_is_refused(url: str, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_redis_url(url)
    assert text in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_the_password_of_a_key_file_is_masked_too() -> None:
    url = "rediss://u:one@h/0?ssl_keyfile=k&ssl_password=two&ssl_certfile=c"
    assert mask_url(url) == "rediss://u:***@h/0?ssl_keyfile=k&ssl_password=***&ssl_certfile=c"
    assert mask_url("rediss://h/0?ssl_password=two") == "rediss://h/0?ssl_password=***"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://127.0.0.1", ""),
        ("redis://localhost", ""),
        ("unix:///run/redis.sock", ""),
        ("rediss://redis.example", ""),
        ("rediss://redis.example?ssl_cert_reqs=required&ssl_check_hostname=true", ""),
        ("rediss://redis.example?ssl_cert_reqs=optional", "ssl_cert_reqs=optional"),
        ("rediss://redis.example?ssl_check_hostname=False", "ssl_check_hostname is off"),
        ("redis://redis.example", "is not encrypted"),
    ],
)
def test_what_of_the_way_to_the_server_is_unsafe_is_known(url: str, text: str) -> None:
    assert unsafe(url) == "" if not text else text in unsafe(url)
