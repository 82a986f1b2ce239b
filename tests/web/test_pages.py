"""Every page of the book, seen by a real browser that has no network."""

import re
from importlib.resources import files

import pytest

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
AXE_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
FILE_NAME = re.compile(r"^\S+\.(png|jpe?g|svg|gif|webp)$|_images?/", re.IGNORECASE)
# What the reader reads, without code and formulas.
PROSE = """() => {
  const walker = document.createTreeWalker(
    document.querySelector("article") ?? document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.parentElement.closest("pre, code, script, style, mjx-container"))
      found.push(node.data);
  }
  return found.join("");
}"""
# What sticks out on the right and lies in nothing that scrolls by itself.
TOO_WIDE = """() => [...document.querySelectorAll("main *")].filter(element => {
  if (element.getBoundingClientRect().right <= innerWidth + 1) return false;
  for (let e = element; e !== document.body; e = e.parentElement)
    if (getComputedStyle(e).overflowX !== "visible") return false;
  return true;
}).map(element => element.outerHTML.slice(0, 100))"""


def test_page_opens_without_errors_and_without_the_network(each):
    assert each.outside == []
    assert each.faults == []


def test_maths_is_rendered(each):
    sources = each.page.locator("article .math").count()
    assert each.page.locator("article mjx-container").count() >= sources
    assert each.page.locator("mjx-merror, merror, [data-mjx-error]").count() == 0
    unset = r"\$[^$\n]+\$|\\\(|\\\[|\\begin\{"
    assert not re.search(unset, each.page.evaluate(PROSE))


def test_every_image_is_shown_and_described(each):
    for image in each.page.locator("img").all():
        source = (image.get_attribute("src") or "")[:80]
        alt = image.get_attribute("alt") or ""
        assert alt.strip(), f"{source} has no alt text"
        assert not FILE_NAME.search(alt), f"{source} has a file name as its alt text"
        image.evaluate("i => { i.loading = 'eager'; return i.decode() }")
    for drawing in each.page.locator("article svg[role=img]").all():
        named = drawing.get_attribute("aria-label") or drawing.locator("title").count()
        assert named, "an SVG figure has no aria-label and no title"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_serious_fault(each, theme):
    each.page.evaluate(
        """async theme => {
          document.documentElement.dataset.theme = theme;
          await Promise.all(document.getAnimations().map(change => change.finished));
        }""",
        theme,
    )
    if not each.page.evaluate("'axe' in window"):
        each.page.evaluate(AXE)
    violations = each.page.evaluate(
        "async rules => (await axe.run({ runOnly: rules })).violations", AXE_RULES
    )
    serious = [
        f"{violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]
    assert serious == []


def test_page_does_not_scroll_sideways_on_a_phone(each):
    each.page.set_viewport_size({"width": 390, "height": 844})
    width = each.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, each.page.evaluate(TOO_WIDE)
