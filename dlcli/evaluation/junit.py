"""The verdicts of a gate as a JUnit report, as CI servers show it: one test case for each requirement and run."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcli.core.errors import ConfigError, ResourceError
from dlcli.core.files import write_bytes
from dlcli.core.reading import open_regular

# What XML 1.0 cannot hold (section 2.2).
_NOT_XML = re.compile("[^\\x09\\x0a\\x0d\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """name: what is required. of: the run or runs. sentence: the verdict in words."""

    name: str
    of: str
    holds: bool
    sentence: str


def check_file(file: Path) -> None:
    """That a report can be written there. ConfigError (exit 2) for a file that is no report, ResourceError (exit 6) for
    one that cannot be read or a folder that there is not."""
    if not file.parent.is_dir():
        raise ResourceError(f"cannot write {file}: there is no folder {file.parent}")
    try:
        with open(open_regular(file, follow=True), "rb") as opened:
            start = opened.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror}") from None
    if start and not start.lstrip().startswith(b"<"):
        raise ConfigError(f"--junit {file} would replace a file that is no XML: choose another name")


def write_junit(file: Path, cases: Sequence[Case]) -> None:
    """Write the report, in place of an earlier one. ResourceError (exit 6) if it cannot be written."""
    failed = sum(not case.holds for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": "0", "skipped": "0"}
    suites = ET.Element("testsuites", counts)
    suite = ET.SubElement(suites, "testsuite", {"name": "dlcli eval", **counts})
    for case in cases:
        one = ET.SubElement(suite, "testcase", {"classname": _clean(case.of), "name": _clean(case.name)})
        if not case.holds:
            ET.SubElement(one, "failure", {"message": _clean(case.sentence), "type": "requirement"})
    ET.indent(suites)
    write_bytes(file, ET.tostring(suites, encoding="utf-8", xml_declaration=True) + b"\n")


def _clean(text: str) -> str:
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
