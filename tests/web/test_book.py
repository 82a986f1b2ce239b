"""What the reader does with the book: search it, darken it, play with a figure."""

from conftest import page_names


def test_the_book_has_its_pages():
    names = page_names()
    assert {"book/welcome.html", "book/glossary.html", "search.html"} < set(names)
    assert sum(name.startswith("notebooks/") for name in names) >= 3


def test_the_door_leads_to_the_welcome_page(book):
    book.page.goto(book.base)
    book.page.wait_for_url("**/book/welcome.html")


def test_search_finds_a_term(book):
    page = book.open("book/welcome.html")
    page.keyboard.press("Control+k")
    page.locator("input[type=search]:visible").first.fill("Dice")
    page.keyboard.press("Enter")
    results = page.locator("ul.search li a")
    results.first.wait_for()
    page.locator(".search-summary", has_text="found").wait_for()
    found = results.evaluate_all("all => all.map(a => a.href)")
    assert any("/glossary.html" in target for target in found), found
    assert book.outside == []
    assert book.faults == []


def test_the_switch_changes_between_light_and_dark(book):
    page = book.open("book/welcome.html")
    colours = {}
    for _ in range(3):  # automatic, light, dark
        page.locator("button.theme-switch-button:visible").first.click()
        theme = page.evaluate("document.documentElement.dataset.theme")
        colours[theme] = page.evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
    assert colours.keys() == {"light", "dark"}
    assert colours["light"] != colours["dark"]


def test_images_keep_their_grey_values_in_dark_mode(book):
    page = book.open("notebooks/01_ten_minutes.html")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    filters = page.locator("article img").evaluate_all(
        "all => all.map(image => getComputedStyle(image).filter)"
    )
    assert filters
    assert set(filters) == {"none"}


def test_the_interactive_figure_reacts(book):
    page = book.open("notebooks/09_transposed_convolution.html")
    status = page.locator("article [aria-live]")
    figure = status.locator("xpath=..")
    at_first = status.inner_text()
    assert at_first.strip()
    figure.locator("input[type=range]").first.press("ArrowRight")
    after_slider = status.inner_text()
    assert after_slider != at_first
    figure.locator("button").first.click()
    assert status.inner_text() != after_slider
    assert book.faults == []


def test_the_colab_link_of_a_chapter_looks_like_a_badge(book):
    page = book.open("notebooks/01_ten_minutes.html")
    link = page.locator('article a[href^="https://colab.research.google.com/"]').first
    assert link.inner_text() == "Open in Colab"
    assert link.evaluate("a => getComputedStyle(a).display") == "inline-block"
    assert link.get_attribute("href").endswith("/notebooks/01_ten_minutes.ipynb")
