"""What a box says of itself is taken by a gateway like any device's word: no name of it is refused."""

from __future__ import annotations

import pytest
from trisense.core.alarms import ALARM
from trisense.core.messages import CALIBRATION, LOSS
from trisense.core.model import BOX_DEVICE, NAME, RESERVED, Stream
from trisense.edge.telling.health import HEALTH


@pytest.mark.parametrize("stream", [ALARM, CALIBRATION, HEALTH, LOSS], ids=lambda stream: stream.measurement)
def test_no_field_of_the_box_has_a_name_of_a_stored_row(stream: Stream) -> None:
    names = {field.name for field in stream.fields}
    assert stream.device == BOX_DEVICE
    assert all(NAME.fullmatch(name) for name in names)
    assert not names & RESERVED
    assert not {f"{name}_q" for name in names} & names
