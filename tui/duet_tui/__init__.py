# SPDX-License-Identifier: MIT
"""The administrator's screen of Duet: ``duet tui``.

Nothing of Textual is imported before :func:`main` is called.
"""


def main(device: str, replay: str | None = None) -> int:
    """Run the screen until it is left; returns the exit code.

    Args:
        device: the device node. It need not exist: the screen says what is missing.
        replay: a recording to look at instead.

    Raises:
        OSError: the recording cannot be read.
        RecordingError: it is no recording, or holds no state of the driver.

    """
    from duet_tui.app import DuetApp
    from duet_tui.backend import Backend

    backend: Backend
    if replay is None:
        from duet_tui.live import Live

        backend = Live(device)
    else:
        from duet_tui.replay import Replay

        backend = Replay(replay)
    app = DuetApp(backend)
    app.run()
    return app.return_code or 0
