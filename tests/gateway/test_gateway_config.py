"""The sample file and the README say what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from trisense.core.config import ConfigModel, check
from trisense.core.errors import ConfigError
from trisense.gateway.config import (
    DuckDbConfig,
    GatewayConfig,
    InfluxConfig,
    StoreConfig,
    VictoriaConfig,
    check_secrets,
    load,
)

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "deploy" / "gateway.sample.toml"
SETTING = re.compile(r"^# (?=[a-z_0-9]+ = |\[)", re.MULTILINE)


def everything_on(text: str) -> list[dict[str, Any]]:
    """The sample with every commented setting in force: once as it stands, once per other store."""
    first, rest = text.split("# InfluxDB instead:\n")
    influx, rest = rest.split("# VictoriaMetrics instead:")
    tail = rest[rest.index("[quarantine]") :]
    main = tomllib.loads(SETTING.sub("", first + tail))
    return [main, main | tomllib.loads(SETTING.sub("", influx))]


def defaults(model: type[Any]) -> dict[str, Any]:
    return {
        n: f.default for n, f in model.model_fields.items() if not f.is_required() and f.default is not None
    }


def test_the_sample_loads_as_it_is() -> None:
    config = load(SAMPLE)
    assert isinstance(config.store, DuckDbConfig)
    assert config.mqtt.port == 8884


def test_every_setting_is_in_the_sample() -> None:
    duck, influx = everything_on(SAMPLE.read_text())
    for section, field in GatewayConfig.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, ConfigModel):
            assert set(duck[section]) == set(model.model_fields), section
    assert set(duck["store"]) == set(DuckDbConfig.model_fields)
    assert set(influx["store"]) == set(InfluxConfig.model_fields)


def test_a_commented_setting_of_the_sample_shows_its_default() -> None:
    live = tomllib.loads(SAMPLE.read_text())
    duck, influx = everything_on(SAMPLE.read_text())
    compared = 0
    for section, field in GatewayConfig.model_fields.items():
        model = field.annotation
        for name, default in defaults(model).items() if isinstance(model, type) else ():
            if name not in live.get(section, {}):
                assert duck[section][name] == default, (section, name)
                compared += 1
    for name, default in defaults(DuckDbConfig).items():
        assert name in live["store"] or duck["store"][name] == default, name
    for name, default in defaults(InfluxConfig).items():
        assert name == "state_path" or influx["store"][name] == default, name
    assert compared >= 8


def test_the_words_of_each_store_are_checked() -> None:
    store: TypeAdapter[Any] = TypeAdapter(StoreConfig)
    assert isinstance(store.validate_python({"kind": "victoriametrics", "url": "http://a:1"}), VictoriaConfig)
    for wrong in (
        {"kind": "influxdb", "url": "ftp://x"},
        {"kind": "influxdb", "url": "http://a", "api": "v1", "token_file": "t"},
        {"kind": "influxdb", "url": "http://a", "api": "v2", "username": "u"},
        {"kind": "duckdb", "memory_limit": "lots"},
    ):
        with pytest.raises(ValueError, match="validation error"):
            store.validate_python(wrong)


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('[store]\nkind = "duckdb"\npath = "a/b.duckdb"\n[quarantine]\npath = "/q"\n')
    config = load(path)
    assert isinstance(config.store, DuckDbConfig)
    assert (config.store.path, config.quarantine.path) == (tmp_path / "a/b.duckdb", Path("/q"))


def test_every_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    tables = {
        "mqtt": {"username": "gw", "password_file": "/nowhere/pw", "ca_file": str(tmp_path / "empty")},
        "store": {"kind": "influxdb", "url": "http://a", "token_file": str(tmp_path / "empty")},
    }
    config = check(tmp_path / "g.toml", tables, GatewayConfig)
    with pytest.raises(ConfigError) as caught:
        check_secrets(config, tmp_path / "g.toml")
    assert [m.where.split(" ", 1)[1] for m in caught.value.mistakes] == [
        "/nowhere/pw",
        str(tmp_path / "empty"),
        str(tmp_path / "empty"),
    ]


def test_the_readme_names_every_route() -> None:
    readme = (ROOT / "gateway" / "README.md").read_text()
    source = (ROOT / "gateway" / "trisense" / "gateway" / "api.py").read_text()
    for route in re.findall(r'"/api/v1/([a-z]+)', source):
        assert f"`{route}" in readme, route
