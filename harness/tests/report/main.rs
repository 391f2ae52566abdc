//! Tests the report in a browser.

mod cells;

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use harness::machines::image::Debian;
use harness::machines::machine::Storage;
use harness::machines::product_machine;
use harness::report::{self, ReportFiles};

/// The tests that run in the machine with the browser.
const TESTS: &str = include_str!("page.py");

/// Where pictures of the page are saved.
const PICTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/matrix");

/// The page of these records.
fn page(records: &[harness::matrix::record::Record], log: usize) -> Result<Vec<u8>> {
    let directory = tempfile::tempdir()?;
    let cells = directory.path().join("cells");
    fs::create_dir(&cells)?;
    cells::write(records, &cells, log)?;
    let [html, junit, json] = ["report.html", "junit.xml", "summary.json"].map(|name| directory.path().join(name));
    let files = ReportFiles { html, junit, json };
    let failed = report::run(&cells, &files, &mut std::io::sink()).is_err();
    ensure!(failed == records.iter().any(|record| !record.passed()), "the verdict is not that of the records");
    Ok(fs::read(&files.html)?)
}

#[test]
fn the_page_does_what_it_says_in_a_real_browser() -> Result<()> {
    let records = cells::matrix();
    ensure!(records.len() == cells::COUNT, "there are {} cells", records.len());
    let many: Vec<_> = (0..5)
        .flat_map(|copy| {
            records.iter().cloned().map(move |mut record| {
                record.cell = format!("{copy}::{}", record.cell);
                record.place.scenario = format!("{}-{copy}", record.place.scenario);
                record
            })
        })
        .collect();
    let packages = ["chromium", "chromium-driver", "fonts-dejavu-core", "python3-selenium"];
    let world = product_machine::with_debian_packages(Storage::Layers, Debian::Bookworm, "chromium", &packages, "")?;
    let machine = &world.machine;
    machine.write("/root/page/report.html", &page(&records, 200_000)?, 0o644)?;
    machine.write("/root/page/large.html", &page(&many, 100_000)?, 0o644)?;
    machine.write("/root/page/page.py", TESTS.as_bytes(), 0o644)?;
    let tests = machine.command(&["python3", "-B", "/root/page/page.py"]).run()?;
    ensure!(tests.exit == 0, "the page is not as it should be:\n{}", tests.screen);
    fs::create_dir_all(PICTURES)?;
    for name in ["light.png", "light-cell.png", "dark.png", "dark-cell.png"] {
        let picture = BASE64_STANDARD.decode(machine.sh(&format!("base64 --wrap=0 /root/page/{name}"))?.trim())?;
        fs::write(Path::new(PICTURES).join(name), picture)?;
    }
    Ok(())
}
