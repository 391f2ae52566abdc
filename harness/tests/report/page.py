"""The report's page in a real browser. Run on a machine that has chromium; the pages lie beside this file."""

import sys
import unittest
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

HERE = Path(__file__).resolve().parent
FAILED = "cell-fault--1.2.1--fresh--service-crashes@restart--trixie"

# Every text that is to be seen, with too little contrast to its background: WCAG 2.2, 1.4.3.
CONTRAST = """
const value = (text) => text.match(/[0-9.]+/g).map(Number);
const light = (color) => color.slice(0, 3).map((part) => part / 255)
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
const background = (element) => {
  for (; element; element = element.parentElement) {
    const color = value(getComputedStyle(element).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  throw new Error("the page has no background");
};
const seen = [...document.querySelectorAll("dialog[open] *, body:not(:has(dialog[open])) *")].filter((element) =>
  element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
const bad = [];
for (const element of seen) {
  const style = getComputedStyle(element);
  const [a, b] = [light(value(element.matches("svg *") ? style.fill : style.color)), light(background(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) bad.push(`${element.localName} ${ratio.toFixed(2)} ${element.textContent.slice(0, 40)}`);
}
return [seen.length, bad];
"""


def browser(javascript=True):
    options = webdriver.ChromeOptions()
    for argument in ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1440,1000"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    service = webdriver.chrome.service.Service("/usr/bin/chromedriver")
    return webdriver.Chrome(service=service, options=options)


class Page(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.browser = browser()

    @classmethod
    def tearDownClass(cls):
        cls.browser.quit()

    def setUp(self):
        self.emulate()
        self.open()

    def tearDown(self):
        self.assertEqual(self.browser.get_log("browser"), [], "the console is empty")

    def open(self, fragment="", page="report.html"):
        # A page that differs only in its fragment is not loaded again.
        self.browser.get("about:blank")
        self.browser.get((HERE / page).as_uri() + fragment)

    def emulate(self, media="", scheme="light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def script(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def one(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def seen(self, selector):
        return self.script("""
            return [...document.querySelectorAll(arguments[0])].filter((element) =>
              element.checkVisibility({ visibilityProperty: true, opacityProperty: true }));
        """, selector)

    def told(self):
        return self.one("#filter output").text

    def press(self, *keys):
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def wait_for_cells(self, count):
        """Waits until so many cells are in the window: the page hears a moment later of what the browser did."""
        cells = (By.CSS_SELECTOR, "dialog article")
        WebDriverWait(self.browser, 10).until(lambda browser: len(browser.find_elements(*cells)) == count)

    def escape(self):
        self.press(Keys.ESCAPE)
        self.wait_for_cells(0)

    def focused(self):
        return self.browser.switch_to.active_element.get_attribute("href").split("#")[1]

    def fragment(self):
        return self.script("return location.hash")

    def test_all_cells_are_in_the_table(self):
        self.assertEqual(len(self.seen("#matrix td.field")), 40)
        self.assertEqual(len(self.seen("#matrix td.field a")), 39)
        self.assertEqual(len(self.seen("#matrix .absent")), 1)
        self.assertEqual(self.told(), "39 of 39 cells shown, 2 failed")
        self.assertEqual(len(self.seen(".failures a")), 2)
        self.assertEqual(self.seen(".list details"), [])

    def test_words_narrow_the_matrix_down(self):
        self.one("[name=text]").send_keys("power edited")
        self.assertEqual(self.told(), "2 of 39 cells shown, 0 failed")
        self.assertEqual(len(self.seen("#matrix tr:not(.group) th[scope=row]")), 1)
        self.assertEqual(len(self.seen("#matrix tbody")), 1)
        self.assertEqual(self.fragment(), "#text=power+edited")
        self.one("#filter button").click()
        self.assertEqual(self.told(), "39 of 39 cells shown, 2 failed")
        self.assertEqual(self.fragment(), "")

    def test_failures_alone(self):
        self.one("[name=failed]").click()
        self.assertEqual(self.told(), "2 of 39 cells shown, 2 failed")
        self.assertEqual(len(self.seen("#matrix td.field")), 2)

    def test_every_dimension_narrows_the_matrix_down(self):
        for name, value, count in [("scenario", "declined", 2), ("debian", "trixie", 19), ("state", "package-held", 4),
                                   ("fault", "power-cut@packages", 4)]:
            with self.subTest(name):
                self.one(f"[name={name}] option[value='{value}']").click()
                self.assertTrue(self.told().startswith(f"{count} of 39 "), self.told())
                self.assertEqual(len(self.seen("#matrix a:not(.other)")), count)
                self.one("#filter button").click()

    def test_the_address_keeps_what_is_shown(self):
        self.open("#debian=trixie&failed=on")
        self.assertEqual(self.told(), "1 of 39 cells shown, 1 failed")
        self.assertEqual(len(self.seen("#matrix thead th[data-debian]")), 1)
        self.one("#matrix td.field a:not(.other)").click()
        self.assertTrue(self.fragment().endswith("&debian=trixie&failed=on"), self.fragment())
        self.browser.refresh()
        self.assertEqual(len(self.seen("dialog article")), 1)
        self.escape()
        self.assertEqual(self.fragment(), "#debian=trixie&failed=on")
        self.assertEqual(self.told(), "1 of 39 cells shown, 1 failed")

    def test_a_cell_opens_and_closes_with_the_keyboard(self):
        self.script("document.querySelector('#matrix td.field a').focus()")
        first = self.focused()
        self.press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
        second = self.focused()
        self.assertNotEqual(first, second)
        self.assertIn("trixie", second)
        self.press(Keys.ENTER)
        self.assertEqual(len(self.seen("dialog[open] h3")), 1)
        self.assertEqual(self.fragment(), "#" + second)
        self.assertEqual(self.browser.switch_to.active_element.tag_name, "h3")
        self.escape()
        self.assertEqual(self.seen("dialog"), [])
        self.assertEqual(self.focused(), second)
        self.press(Keys.ARROW_LEFT, Keys.ARROW_UP, Keys.ARROW_UP)
        self.assertEqual(self.focused(), first)

    def test_back_and_forward_close_and_open(self):
        self.one("#matrix td.field a").click()
        opened = self.fragment()
        self.browser.back()
        self.wait_for_cells(0)
        self.assertEqual(self.seen("dialog"), [])
        self.browser.forward()
        self.wait_for_cells(1)
        self.assertEqual(len(self.seen("dialog article")), 1)
        self.assertEqual(self.fragment(), opened)

    def test_back_and_forward_at_once_end_in_the_cell(self):
        """The window tells that it was closed when the cell is open in it again."""
        self.one("#matrix td.field a").click()
        opened = self.fragment()
        self.browser.execute_async_script("""
            const [opened, done] = arguments;
            document.getElementById("window").addEventListener("close", () => setTimeout(done), { once: true });
            for (const address of [location.pathname, opened]) {
              history.replaceState(null, "", address);
              dispatchEvent(new PopStateEvent("popstate"));
            }
        """, opened)
        self.assertEqual(len(self.seen("dialog article")), 1)
        self.assertEqual(self.fragment(), opened)

    def test_a_link_leads_to_a_cell(self):
        self.open("#" + FAILED)
        self.assertEqual(self.one("dialog article").get_attribute("id"), FAILED)
        self.assertIn("asterisk is not running", self.one("dialog ul.failed").text)
        self.assertEqual(len(self.seen("dialog ins")), 1)
        self.assertEqual(len(self.seen("dialog .timeline tbody")), 4)
        self.assertIn("never ended", self.one("dialog .timeline").text)
        self.one("dialog .close").click()
        self.assertEqual(self.seen("dialog"), [])
        self.assertEqual(self.script("return decodeURIComponent(document.activeElement.hash)"), "#" + FAILED)

    def test_a_link_to_nothing_does_nothing(self):
        for fragment in ["#cell-none", "#cell-%", "#nonsense=1", "#&&"]:
            with self.subTest(fragment):
                self.open(fragment)
                self.assertEqual(self.told(), "39 of 39 cells shown, 2 failed")

    def test_the_command_can_be_copied(self):
        self.open("#" + FAILED)
        origin = {"permission": {"name": "clipboard-write"}, "setting": "granted"}
        self.browser.execute_cdp_cmd("Browser.setPermission", origin)
        self.one("dialog [data-copy]").click()
        said = self.one("dialog .again output")
        WebDriverWait(self.browser, 10).until(lambda _: said.text)
        self.assertEqual(said.text, "copied")

    def test_a_log_is_only_text(self):
        self.open("#" + FAILED)
        self.one("dialog details.log summary").click()
        self.assertIn("</script></pre><img src=x onerror=", self.one("dialog pre.log").text)
        self.assertEqual(self.script("return [document.images.length, window.harmed ?? null]"), [0, None])

    def test_only_our_script_runs(self):
        self.script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed = true\">')")
        WebDriverWait(self.browser, 10).until(
            lambda _: any("inline event handler violates" in entry["message"] for entry in self.browser.get_log("browser")))
        self.assertIsNone(self.script("return window.harmed ?? null"))

    def test_everything_to_operate_has_a_name(self):
        self.open("#" + FAILED)
        tree = self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {"link", "button", "searchbox", "combobox", "checkbox", "dialog", "table", "region"}
        nodes = [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
        self.escape()
        tree = self.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        nodes += [node for node in tree if not node["ignored"] and node["role"]["value"] in roles]
        self.assertEqual(roles - {node["role"]["value"] for node in nodes}, set())
        self.assertEqual([node["role"]["value"] for node in nodes if not node["name"]["value"]], [])

    def test_every_text_can_be_read(self):
        for scheme in ["light", "dark"]:
            for fragment in ["", "#" + FAILED]:
                with self.subTest(scheme=scheme, fragment=fragment):
                    self.emulate(scheme=scheme)
                    self.open(fragment)
                    name = scheme + ("-cell" if fragment else "")
                    self.browser.save_screenshot(str(HERE / f"{name}.png"))
                    for log in self.seen("dialog details.log summary"):
                        log.click()
                    count, bad = self.script(CONTRAST)
                    self.assertGreater(count, 30)
                    self.assertEqual(bad, [])

    def test_it_fits_a_narrow_screen(self):
        for fragment in ["", "#" + FAILED]:
            with self.subTest(fragment):
                size = {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": False}
                self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                self.open(fragment)
                wide = self.script("return [document.documentElement, document.querySelector('dialog')]"
                                   ".map((element) => element.scrollWidth - element.clientWidth)")
                self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
                self.assertEqual(wide, [0, 0])

    def test_failures_are_printed(self):
        self.emulate(media="print")
        self.assertEqual(self.seen("form, button"), [])
        self.assertEqual(len(self.seen(".list article h3")), 2)
        # Ten steps, three hooks, eight packages with two scripts each, eight services.
        self.assertEqual(len(self.seen(".list article rect")), 2 * 37)
        self.open("#" + FAILED)
        self.assertEqual(len(self.seen("article h3")), 1)
        self.assertEqual(self.seen("#matrix"), [])

    def test_hundreds_of_cells_open_at_once(self):
        self.open(page="large.html")
        milliseconds = self.script("const [entry] = performance.getEntriesByType('navigation'); return entry.loadEventEnd")
        self.assertTrue(self.told().startswith("195 of 195 "), self.told())
        self.assertLess(milliseconds, 5000)
        self.assertLess((HERE / "large.html").stat().st_size, 20 * 2**20)


class WithoutScript(unittest.TestCase):
    def test_the_page_is_a_table_and_a_list(self):
        without = browser(javascript=False)
        try:
            without.get((HERE / "report.html").as_uri())
            seen = lambda selector: [one for one in without.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]
            self.assertEqual(len(seen("#matrix td.field a")), 39)
            self.assertEqual(len(seen(".list > details > summary")), 39)
            self.assertEqual(seen("form, button, article"), [])
            seen("#matrix a")[0].click()
            self.assertEqual(len(seen("article")), 1)
            self.assertEqual(len(seen("details[open] article rect")), 37)
            seen(".list > details:not([open]) > summary")[0].click()
            self.assertEqual(len(seen("article")), 2)
        finally:
            without.quit()


if __name__ == "__main__":
    sys.exit(not unittest.main(exit=False, verbosity=2).result.wasSuccessful())
