"""Settings: their checks, their documentation, and the options that are made from them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields, replace

import pytest

import features
from diffusion import DiffusionError
from features import settings
from features.cli.arguments import add_options, documentation, from_options

KINDS = [
    settings.NetworkSettings,
    settings.ImageSettings,
    settings.RunSettings,
    settings.TrainingSettings,
    settings.EGMSettings,
    settings.DiscoverySettings,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_documented_once(kind):
    texts = documentation(kind)
    assert list(texts) == [field.name for field in fields(kind)]
    assert all(texts.values())
    section = kind.__doc__.split("Parameters\n")[1]
    for name in texts:
        assert section.count(f"\n    {name} : ") == 1
    # Defaults in the text are those of the fields.
    for field in fields(kind):
        default = field.default
        if isinstance(default, int | float | str) and not isinstance(default, bool):
            line = next(ln for ln in section.split("\n") if ln.startswith(f"    {field.name} : "))
            assert eval(line.partition("default ")[2]) == default


@pytest.mark.parametrize("kind", KINDS[1:])
def test_options_give_the_defaults_and_every_field(kind):
    parser = argparse.ArgumentParser()
    add_options(parser, kind, skip=("scales", "progress"))
    assert from_options(kind, parser.parse_args([])) == kind()
    names = {field.name for field in fields(kind)} - {"scales", "progress"}
    assert set(vars(parser.parse_args([]))) == names


def test_options_of_each_type():
    parser = argparse.ArgumentParser()
    add_options(parser, settings.NetworkSettings)
    text = "--backbone vgg16 --weights w.pth --mean 0 0.5 1"
    given = parser.parse_args(text.split())
    expected = settings.NetworkSettings("vgg16", "w.pth", mean=(0, 0.5, 1))
    assert from_options(settings.NetworkSettings, given) == expected
    parser = argparse.ArgumentParser()
    add_options(parser, settings.DiscoverySettings)
    text = "-k 7 --nodes regions --beta 2.5 --object-egm threshold=0.1,max_iter=4,m_step=printed"
    found = from_options(settings.DiscoverySettings, parser.parse_args(text.split()))
    default = settings.DiscoverySettings()
    egm = replace(default.object_egm, threshold=0.1, max_iter=4, m_step="printed")
    assert found == replace(default, k=7, nodes="regions", beta=2.5, object_egm=egm)
    # What is on by default can be turned off.
    off = from_options(settings.DiscoverySettings, parser.parse_args(["--no-border"]))
    assert off == replace(default, border=False)


@pytest.mark.parametrize("kind", KINDS)
def test_settings_come_back_from_json(kind):
    given = {"backbone": "alexnet", "std": [1, 1, 1]} if kind is settings.NetworkSettings else {}
    made = kind(**given)
    assert kind(**json.loads(json.dumps(asdict(made)))) == made


def test_a_mixture_may_be_an_egm():
    made = features.DiscoverySettings(object_egm=features.EGM(threshold=0.1))
    assert features.ObjectDiscovery(made).object_egm == features.EGM(threshold=0.1)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (settings.NetworkSettings, {}, "backbone"),
        (settings.NetworkSettings, {"backbone": 3}, "backbone"),
        (settings.NetworkSettings, {"weights": 3}, "weights"),
        (settings.NetworkSettings, {"backbone": "vgg16", "mean": (1, 2)}, "mean"),
        (settings.NetworkSettings, {"backbone": "vgg16", "std": (0, 1, 1)}, "std"),
        (settings.ImageSettings, {"size": 0}, "size"),
        (settings.ImageSettings, {"scales": (0,)}, "scales"),
        (settings.ImageSettings, {"regions": "all"}, "regions"),
        (settings.RunSettings, {"batch_size": 0}, "batch_size"),
        (settings.RunSettings, {"workers": 0}, "workers"),
        (settings.TrainingSettings, {"loss": "arcface"}, "loss"),
        (settings.TrainingSettings, {"size": 1.5}, "size"),
        (settings.TrainingSettings, {"margin": 0}, "margin"),
        (settings.EGMSettings, {"m_step": "soft"}, "m_step"),
        (settings.DiscoverySettings, {"object_egm": {"theta": 1}}, "object_egm"),
        (settings.DiscoverySettings, {"patch": 2}, "patch"),
        (settings.DiscoverySettings, {"nodes": "sparse"}, "nodes"),
        (settings.DiscoverySettings, {"border": 1}, "border"),
        (settings.DiscoverySettings, {"restart": 0.0}, "restart"),
        (settings.DiscoverySettings, {"restart": 1.0}, "restart"),
    ],
)
def test_bad_values_are_named(kind, given, message):
    with pytest.raises(DiffusionError, match=f"^{message}: "):
        kind(**given)


def test_settings_of_another_kind_are_named():
    with pytest.raises(DiffusionError, match=r"^network: expected NetworkSettings\(\.\.\.\)"):
        features.extract_folder("photos", "out", settings.ImageSettings())
    with pytest.raises(DiffusionError, match=r"^settings: expected DiscoverySettings"):
        features.ObjectDiscovery({"k": 3})
