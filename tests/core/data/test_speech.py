"""Speech: a stop reaches the program even while espeak-ng is speaking."""

from __future__ import annotations

import signal
import time

import pytest

from unitalk_core.data.speech import open_espeak
from unitalk_core.data.synthetic import VOICES

pytest.importorskip("espeakng_loader")


class Stop(Exception):  # noqa: N818 - not an error
    pass


def stop(*_: object) -> None:
    raise Stop


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signal")
def test_a_stop_while_it_speaks_is_not_lost():
    """ctypes prints what is raised in a callback and goes on."""
    before = signal.signal(signal.SIGALRM, stop)
    try:
        with open_espeak() as espeak:
            for i in range(150):
                end = time.monotonic() + 0.2
                with pytest.raises(Stop):
                    signal.setitimer(signal.ITIMER_REAL, 0.0003 + 0.00002 * i)
                    while time.monotonic() < end:
                        espeak.speak("understanding", VOICES[0], words_per_minute=150, pitch=50)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
