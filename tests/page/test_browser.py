"""The page in a browser: Debian's Chromium, at three widths, light and dark, on paper."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from tests.page.experiment import SEEDS, STEPS
from tests.support.browser import launch_options, why_not
from tests.support.finished import fid

pytestmark = pytest.mark.slow

WIDTHS = {"phone": 390, "tablet": 820, "desktop": 1440}


@pytest.fixture(scope="module")
def browser():
    if reason := why_not():
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(**launch_options())
        yield started
        started.close()


@pytest.fixture
def opened(browser, place, html):
    """Open the page; in the end nothing may have been complained of or asked for."""
    complaints, contexts = [], []

    def opened(width=1440, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url)
                if not request.url.startswith(("file:", "data:")) else None)  # fmt: skip
        page.goto((place / "results/tiny/index.html").as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_page_fits_and_is_accessible(opened, width, scheme):
    page = opened(width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("summary").first.click()
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def curve(page, run):
    """Heights of a run's points in the chart of convergence."""
    colour = page.evaluate(f"JSON.parse(data.textContent).runs.findIndex(r => r.id === '{run}')")
    points = page.locator(f"[data-chart=convergence] .point[style*='--run{colour})']")
    places = [points.nth(index).get_attribute("transform") for index in range(points.count())]
    return [tuple(map(float, re.findall(r"[\d.]+", place))) for place in places]


def chart(page):
    return page.locator("[data-chart=convergence]")


def test_pointing_at_a_chart_says_its_values(opened):
    page = opened()
    plot = chart(page).locator(".plot")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 25, box["y"] + box["height"] / 2)
    tip = chart(page).locator(".tip")
    expect(tip).to_contain_text("FID at 20 steps")
    values = [fid(2, seed, 20) for seed in SEEDS]
    expect(tip).to_contain_text(f"{sum(values) / 3:.2f} ({min(values):.2f} to {max(values):.2f})")
    around, inside = plot.bounding_box(), tip.bounding_box()
    assert inside["x"] >= around["x"]
    assert inside["x"] + inside["width"] <= around["x"] + around["width"]
    assert inside["height"] < around["height"]
    names = tip.locator(".row").all_inner_texts()
    assert names[0].startswith("SiT")  # the highest value stands first, as in the chart
    page.mouse.move(0, 0)
    expect(tip).to_be_hidden()


def test_arrow_keys_read_a_chart(opened):
    page = opened()
    chart(page).locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    expect(chart(page).locator(".tip")).to_contain_text(f"FID at {STEPS[0]} steps")
    page.keyboard.press("ArrowRight")
    expect(chart(page).locator(".said")).to_contain_text(f"FID at {STEPS[1]} steps")
    page.keyboard.press("Escape")
    expect(chart(page).locator(".tip")).to_be_hidden()


def test_runs_are_toggled(opened):
    page = opened()
    button = chart(page).get_by_role("button", name="SiT", exact=True)
    expect(button).to_have_attribute("aria-pressed", "true")
    assert len(curve(page, "sit")) == len(STEPS)
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert curve(page, "sit") == []
    button.press("Enter")
    assert len(curve(page, "sit")) == len(STEPS)
    assert curve(page, "w-5") == []  # of a grid: hidden at first
    chart(page).get_by_role("button", name="w = 5").click()
    assert len(curve(page, "w-5")) == len(STEPS)


def test_axes_are_linear_or_logarithmic(opened):
    """Places are linear in the values, or in their logarithms: read off two points, for a third."""
    page = opened()
    means = [sum(fid(0, seed, step) for seed in SEEDS) / 3 for step in STEPS]

    def third(values, places):
        share = (places[2] - places[0]) / (places[1] - places[0])
        return values[0] + share * (values[1] - values[0])

    def logarithms(values):
        return page.evaluate("values => values.map(Math.log)", list(values))

    (xs, ys) = zip(*curve(page, "sit"), strict=True)
    assert third(logarithms(means), ys) == pytest.approx(logarithms(means)[2], abs=1e-3)
    assert third(STEPS, xs) == pytest.approx(STEPS[2], abs=0.01)
    chart(page).get_by_label("Logarithmic values").uncheck()
    chart(page).get_by_label("Logarithmic horizontal axis").check()
    (xs, ys) = zip(*curve(page, "sit"), strict=True)
    assert third(means, ys) == pytest.approx(means[2], abs=1e-2)
    assert third(logarithms(STEPS), xs) == pytest.approx(logarithms(STEPS)[2], abs=1e-3)


def test_metric_sampler_and_axis_are_chosen(opened):
    page = opened()
    chart(page).get_by_role("combobox", name="Metric").select_option("is")
    expect(chart(page).locator("svg .title").first).to_have_text("IS")
    chart(page).get_by_role("combobox", name="Sampler").select_option("cfg")
    assert len(curve(page, "sit")) == 1  # of the last checkpoint alone
    chart(page).get_by_role("combobox", name="Against").select_option("time")
    expect(chart(page).locator("svg .title").nth(1)).to_have_text("Training time in minutes")


def test_the_slider_shows_samples_of_a_checkpoint(opened):
    page = opened()
    slider = page.get_by_role("slider", name="Checkpoint")
    for index, step in enumerate(STEPS):
        slider.fill(str(index))
        expect(page.locator("#sample-output")).to_have_text(f"{step} steps")
        shown = page.locator(".sheets[data-sampler=ode] img:visible")
        assert [image.get_attribute("data-step") for image in shown.all()] == [str(step)] * 3
    slider.fill("0")
    page.locator("#sample-sampler").select_option("cfg")  # has none there
    expect(page.locator("#sample-output")).to_have_text("20 steps")
    assert page.locator(".sheets img:visible").count() == 3
    slider.fill("0")
    expect(page.locator(".sheets[data-sampler=cfg] .absent").first).to_be_visible()


def test_without_javascript_everything_is_there_but_the_interaction(opened):
    page = opened(java_script_enabled=False)
    assert page.locator(".sheets img:visible").count() == 3
    expect(page.locator("#sample-step")).to_be_hidden()
    expect(page.get_by_text("The interactive curves need JavaScript").first).to_be_visible()
    assert page.locator("table:visible").count() > 6
    assert page.locator(".still img:visible").count() == page.locator(".still").count()


def test_paper_has_everything_and_no_controls(opened):
    page = opened(820, color_scheme="dark")
    page.emulate_media(media="print")
    for selector in ("nav", ".controls", "button[aria-pressed=false]"):
        expect(page.locator(selector).first).to_be_hidden()
    expect(page.get_by_text("Linear probe").first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(22, 25, 29)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
