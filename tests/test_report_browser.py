"""The page of `dlcli report` in a real browser: nothing is refused or loaded, tables sort, folds open, it prints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import test_report
from tests.browser import Browser, needs_browser
from tests.test_plots import plot
from tests.test_report import make, measure, report
from tests.test_report_hostile import HOSTILE, hostile

pytestmark = needs_browser

root = test_report.root

FILE = Path("report.html")
NUMBERS = "[...document.querySelector('table.sortable').tBodies[0].rows].map(row => row.cells[0].textContent)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture
def reported(root: Path, browser: Browser) -> Browser:
    """A browser that shows the report of runs 1 to 4; the best values are 0.8, 0.95, none and 0.85."""
    for seed, value in enumerate((0.8, 0.95, 0.5, 0.85)):
        measure(make(root, seed=seed, lr=0.1, value=value))
    run = make(root, seed=9)
    run.write_info(run.info() | {"best": None, "status": "interrupted"})
    report("5,1,2,4", "-o", str(FILE))
    browser.told.clear()
    browser.open(FILE)
    return browser


def focus(browser: Browser, heading: str) -> None:
    """On the button of this column of the first table."""
    headings = "[...document.querySelector('table.sortable').tHead.rows[0].cells]"
    browser.value(f"{headings}.find(each => each.textContent === '{heading}').firstChild.focus()")


def test_tables_are_sorted_from_the_keyboard_and_what_is_undefined_comes_last(reported: Browser) -> None:
    assert reported.value(NUMBERS) == ["5", "1", "2", "4"]
    focus(reported, "best")
    orders: list[Any] = []
    for _ in range(2):
        reported.press("Enter")
        order = reported.value("document.activeElement.parentElement.getAttribute('aria-sort')")
        orders.append((order, reported.value(NUMBERS)))
    assert orders == [("ascending", ["1", "4", "2", "5"]), ("descending", ["2", "4", "1", "5"])]
    focus(reported, "status")  # a text
    reported.press("Enter")
    assert reported.value(NUMBERS) == ["2", "4", "1", "5"]
    assert reported.value("document.querySelectorAll('[aria-sort]').length") == 1
    assert reported.told == []


def test_folds_open_from_the_keyboard_and_for_the_printer(reported: Browser) -> None:
    closed = "document.querySelectorAll('details:not([open])').length"
    before = reported.value(closed)
    assert before > 10
    reported.value("document.querySelector('summary').focus()")
    reported.press("Enter")
    assert reported.value(closed) == before - 1
    reported.value("dispatchEvent(new Event('beforeprint'))")
    assert reported.value(closed) == 0
    reported.value("dispatchEvent(new Event('afterprint'))")
    assert reported.value(closed) == before - 1
    assert reported.pdf().startswith(b"%PDF") and reported.value(closed) == before - 1


def test_the_first_tab_skips_to_the_content(reported: Browser) -> None:
    reported.press("Tab")
    reported.press("Enter")
    assert reported.value("location.hash") == "#content"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 400])
def test_it_fits_the_screen_in_light_and_dark(reported: Browser, width: int, dark: bool) -> None:
    reported.open(FILE, width=width, dark=dark)
    assert reported.value("document.documentElement.scrollWidth") <= width
    colours = reported.value(
        "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name].match(/\\d+/g).map(Number)[1])"
    )
    assert (colours[0] < 60 and colours[1] > 200) if dark else (colours[0] > 240 and colours[1] < 60)
    assert reported.told == []


def test_a_pointer_over_a_curve_is_told_its_values(reported: Browser) -> None:
    told = reported.value(
        """(() => {
          const target = document.querySelectorAll('#run-2-curves svg path[pointer-events]')[1];
          target.scrollIntoView({block: 'center'});
          const box = target.getBoundingClientRect();
          return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2).textContent;
        })()"""
    )
    assert told == "run 2 train: epoch 2, loss 0.8"


def test_the_policy_of_the_page_refuses_what_is_not_its_own(reported: Browser) -> None:
    ran = reported.value(
        """(() => {
          const script = document.createElement('script');
          script.textContent = 'window.ran = true';
          document.body.append(script);
          document.body.setAttribute('onclick', 'window.ran = true');
          document.body.click();
          return window.ran === true;
        })()"""
    )
    assert ran is False and len(reported.told) >= 2
    assert reported.value("fetch('http://127.0.0.1:9/').then(() => true, () => false)") is False


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_stay_text(root: Path, browser: Browser, kind: str) -> None:
    hostile(root, HOSTILE[kind])
    report("1", "-o", str(FILE))
    browser.told.clear()
    browser.open(FILE)
    count = "(...names) => names.map(name => document.querySelectorAll(name).length)"
    assert browser.value(f"({count})('script', 'style', 'h1', 'b', 'iframe', '[onload],[onerror],[onfocus]')") == [
        1, 1, 1, 0, 0, 0,
    ]  # fmt: skip
    assert browser.value("document.querySelectorAll('table.sortable th button').length") > 10
    assert browser.told == []


def test_a_picture_is_a_page_that_the_browser_takes(root: Path, browser: Browser) -> None:
    make(root)
    plot("1", "-o", "a.html")
    browser.told.clear()
    browser.open(Path("a.html"), dark=True)
    assert browser.value("document.querySelectorAll('svg [pointer-events] title').length") == 6
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
    assert browser.told == []
