"""The Kubernetes example is what the API takes, and says of the server what is true."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")

FOLDER = Path(__file__).parents[2] / "docs/deploy"
OLDEST_KUBERNETES = "1.25"
CONTAINER = ("spec", "template", "spec", "containers", 0)


class Group(msgspec.Struct, forbid_unknown_fields=True):
    resource: str
    group: str = ""


class Resources(msgspec.Struct, forbid_unknown_fields=True):
    overrides: dict[str, Group] = {}
    template: str = ""


class Name(msgspec.Struct, forbid_unknown_fields=True):
    matches: str = ""
    as_: str = msgspec.field(name="as", default="")


class Rule(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A rule as the Prometheus adapter reads it: ``DiscoveryRule`` of its ``pkg/config/config.go``."""

    series_query: str
    resources: Resources
    name: Name
    metrics_query: str = ""
    series_filters: list[dict[str, str]] = []


class Rules(msgspec.Struct, forbid_unknown_fields=True):
    """Of the values of the adapter's chart those that hold rules."""

    custom: list[Rule]
    default: bool = True


class AdapterValues(msgspec.Struct, forbid_unknown_fields=True):
    rules: Rules


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    found = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
    assert all({"apiVersion", "kind", "metadata", "spec"} <= set(document) for document in found)
    return {document["kind"]: document for document in found}


def options() -> dict[str, click.Parameter]:
    from runtime.serve.command import serve

    return {name: parameter for parameter in serve.params for name in parameter.opts}


@pytest.fixture(scope="module")
def api() -> Any:
    return pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")


def test_the_objects_are_what_the_api_takes(api: Any) -> None:
    """Against Kubernetes' own schemas, strictly: a field that the API does not know is an error."""
    found = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
    assert len(found) == 4
    for document in found:
        for version in (OLDEST_KUBERNETES, api.latest_version()):
            api.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        (CONTAINER, "resourcez", {}),
        ((*CONTAINER, "ports", 0), "containerPort", "8000"),
        (("spec", "template", "spec", "securityContext"), "runAsNonroot", True),
        (("spec", "strategy", "rollingUpdate"), "maxSurge", {}),
    ],
)
def test_a_slip_in_a_field_would_be_seen(
    api: Any, documents: dict[str, Any], place: tuple[Any, ...], key: str, value: Any
) -> None:
    changed = node = copy.deepcopy(documents["Deployment"])
    for step in place:
        node = node[step]
    node[key] = value
    with pytest.raises(api.ValidationError):
        api.validate(changed, api.latest_version(), strict=True)


def test_the_adapter_reads_its_rules(documents: dict[str, Any]) -> None:
    text = (FOLDER / "prometheus-adapter.yaml").read_text()
    (rule,) = msgspec.convert(yaml.safe_load(text), AdapterValues).rules.custom
    # a template of Go's with these three; the labels that it groups by are those that the series are found by
    assert set(re.findall(r"<<(.*?)>>", rule.metrics_query)) == {".Series", ".LabelMatchers", ".GroupBy"}
    labels = set(re.findall(r"(\w+)!=\"\"", rule.series_query))
    assert labels == set(rule.resources.overrides) == {"namespace", "pod"}
    assert {group.resource for group in rule.resources.overrides.values()} == {"namespace", "pod"}
    with pytest.raises(msgspec.ValidationError, match="seriesQuerry"):
        msgspec.convert(yaml.safe_load(text.replace("seriesQuery", "seriesQuerry")), AdapterValues)


def test_selectors_ports_and_names_fit_together(documents: dict[str, Any]) -> None:
    deployment, service = documents["Deployment"]["spec"], documents["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert service["selector"].items() <= labels.items()
    assert documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (container,) = deployment["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert service["ports"][0]["targetPort"] in ports
    assert f"--port={ports['http']}" in container["args"]
    assert documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"] == {
        "apiVersion": documents["Deployment"]["apiVersion"],
        "kind": "Deployment",
        "name": documents["Deployment"]["metadata"]["name"],
    }
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in deployment["template"]["spec"]["volumes"]}


def test_the_arguments_are_options_that_take_these_values(documents: dict[str, Any]) -> None:
    from runtime.serve.command import serve

    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    context = serve.make_context("serve", list(container["args"]))
    assert context.params["host"] == "0.0.0.0"
    cores = context.params["workers"] * context.params["threads"]
    assert int(container["resources"]["requests"]["cpu"]) >= cores
    pause = int(re.search(r"sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][-1])[1])  # type: ignore[index]
    grace = documents["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > pause + context.params["drain_s"] + 30


def test_probes_and_the_metric_exist(documents: dict[str, Any]) -> None:
    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    paths = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"/v2/health/ready", "/v2/health/live"}
    (metric,) = documents["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(name)
    pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
    from runtime.serve.metrics import Metrics

    assert f"# TYPE {name} gauge" in Metrics().text().decode()


def test_every_option_in_the_page_exists() -> None:
    from runtime.triton.command import export_triton

    known = set(options()) | {name for parameter in export_triton.params for name in parameter.opts}
    known |= {"--fuzz", "--soak", "--from-file"}
    page = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"--[a-z][a-z-]+", page)) <= known
    assert all((FOLDER / name).is_file() for name in re.findall(r"\]\(([\w.-]+)\)", page))
