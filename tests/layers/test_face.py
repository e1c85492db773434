from __future__ import annotations

import inspect

from overlaykit import layers


def test_the_room_offers_what_it_promises() -> None:
    assert sorted(layers.__all__) == [
        "Hold",
        "Layer",
        "Store",
        "StoredLayer",
        "host",
        "resolve",
    ]
    assert all(inspect.getdoc(getattr(layers, name)) for name in layers.__all__)
