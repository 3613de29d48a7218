"""All families, by one contract."""

from importlib.util import find_spec
from typing import ClassVar

import pytest
from family_contract import FamilyTests, PackedFamilyTests
from spotesm.weights.architectures import ARCHITECTURES, FAMILIES, REFERENCE, Architecture


class TestESM2(PackedFamilyTests):
    architecture = Architecture(4, 80, 4)
    last_product = "fc2.weight"


class TestESM2ByTheReferenceEngine(FamilyTests):
    architecture = Architecture(4, 80, 4)
    engine = REFERENCE
    last_product = "fc2.weight"


class TestESM1(FamilyTests):
    architecture = Architecture(4, 80, 4, "esm1")
    engine = REFERENCE
    last_product = "fc2.weight"


@pytest.mark.skipif(not find_spec("transformers"), reason="needs transformers")
class TestESMC(PackedFamilyTests):
    architecture = Architecture(4, 128, 2, "esmc", has_regression=False)
    theirs: ClassVar[dict[str, str]] = {
        f"lm_head.{kind}": f"lm_head.decoder.{kind}" for kind in ("weight", "bias")
    }
    last_product = "mlp.down_proj.weight"


def test_every_family_is_tested() -> None:
    tested = {case.architecture.family for case in (TestESM2, TestESM1, TestESMC)}
    assert tested == FAMILIES.keys() == {shape.family for shape in ARCHITECTURES.values()}


@pytest.mark.parametrize(
    ("name", "hidden", "parameters"),
    [
        ("esmc_300m", 2560, 332_997_184),
        ("esmc_600m", 3072, 575_036_992),
        ("esmc_6b", 6912, 6_352_005_184),
    ],
)
def test_an_esmc_has_the_published_shape(name: str, hidden: int, parameters: int) -> None:
    shape = ARCHITECTURES[name]
    assert (shape.feed_forward_dim, shape.parameters) == (hidden, parameters)
