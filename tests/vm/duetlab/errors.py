# SPDX-License-Identifier: MIT
"""The lab's exit statuses, and the errors that end it."""

EXIT_USAGE = 2
EXIT_TROUBLE = 70
EXIT_LAB = 71
EXIT_TIMEOUT = 124
EXIT_INTERRUPT = 130


class LabError(Exception):
    """The lab could not do its work; the text says what happened and what to do."""

    status = EXIT_LAB


class UsageError(LabError):
    """The lab was asked for something that makes no sense."""

    status = EXIT_USAGE
