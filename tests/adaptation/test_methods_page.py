from __future__ import annotations

import methods_page

from fairtune.adaptation.methods import METHODS


def test_the_page_says_what_the_registry_holds() -> None:
    page = methods_page.PAGE.read_text(encoding="utf-8")
    assert page == methods_page.text(), "run `python tests/adaptation/methods_page.py`"


def test_every_method_and_field_is_named() -> None:
    page = methods_page.PAGE.read_text(encoding="utf-8")
    for name in METHODS:
        assert f"| `{name}` |" in page
        for field in METHODS.get(name).model_fields:
            assert f"| `{name}.{field}` |" in page
