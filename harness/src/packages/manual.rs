//! Man pages and the file of settings, made from the code.

use anyhow::Result;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use upgrader::config::settings::SETTINGS;

/// The man pages of a program, made from its command line: one for it and one for each of its subcommands. Each with its file
/// name, `acme-upgrade-status.8`.
pub fn of_program(program: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let command = upgrader::cli::command(program.to_owned());
    let mut pages = vec![(format!("{program}.8"), page(command.clone())?)];
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("{program}-{}", verb.get_name());
        let described = verb.clone().name(name.clone()).bin_name(format!("{program} {}", verb.get_name()));
        pages.push((format!("{name}.8"), page(described)?));
    }
    Ok(pages)
}

fn page(command: clap::Command) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).section("8").manual("System administration").render(&mut page)?;
    Ok(page)
}

/// The man page of the admin's settings, made from the table of settings.
pub fn of_settings(program: &str) -> Result<Vec<u8>> {
    let file = format!("/etc/{program}/config.toml");
    let mut page = Roff::new();
    page.control("TH", [format!("{program}-config").as_str(), "5", "", "", "System administration"]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{program}-config - settings of {program}"))]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([roman(&file)]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("The settings of the admin of a machine. The file is written in TOML. A setting that is not in it, or is behind a "),
        bold("#"),
        roman(", has its default; one that is not known is an error that names its line. Spans of time are written as "),
        italic("90s"),
        roman(" or "),
        italic("1m 30s"),
        roman("."),
    ]);
    let mut table = "";
    page.control("SH", ["SETTINGS"]);
    for setting in SETTINGS {
        if setting.table != table {
            table = setting.table;
            page.control("SS", [format!("[{table}]").as_str()]);
        }
        page.control("TP", []);
        page.text([bold(setting.key), roman(" = "), roman(setting.default)]);
        page.text([roman(setting.meaning)]);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([bold(program), roman("(8)")]);
    let mut bytes = Vec::new();
    page.to_writer(&mut bytes)?;
    Ok(bytes)
}

/// The file of settings as it is shipped: every setting with its default, behind a `#`.
#[must_use]
pub fn settings(program: &str) -> String {
    let mut lines = vec![format!("# Settings of {program}; see {program}-config(5).")];
    let mut table = "";
    for setting in SETTINGS {
        if setting.table != table {
            table = setting.table;
            lines.extend([String::new(), format!("[{table}]")]);
        }
        lines.push(String::new());
        lines.extend(wrapped(setting.meaning, 100).iter().map(|line| format!("# {line}")));
        lines.push(format!("#{} = {}", setting.key, setting.default));
    }
    lines.join("\n") + "\n"
}

/// A text in lines of at most this many characters, broken between words.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|line| line.len() + 1 + word.len() <= width) {
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use upgrader::config::settings::Config;

    #[test]
    fn the_settings_that_are_shipped_change_nothing_and_each_can_be_uncommented() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        let shipped = settings("acme-upgrade");
        std::fs::write(&path, &shipped).unwrap();
        assert_eq!(Config::read(&path).unwrap(), Config::default());
        let uncommented: Vec<&str> = shipped
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
            .collect();
        std::fs::write(&path, uncommented.join("\n")).unwrap();
        let mut config = Config::read(&path).unwrap();
        assert!(config.conffiles.take().is_some() && config.validated.take().is_some());
        assert_eq!(config, Config::default());
    }

    #[test]
    fn every_setting_and_every_verb_has_its_place_in_a_man_page() {
        let page = String::from_utf8(of_settings("acme-upgrade").unwrap()).unwrap();
        for setting in SETTINGS {
            assert!(page.contains(&setting.key.replace('-', "\\-")), "{} is not in\n{page}", setting.key);
        }
        let names: Vec<String> = of_program("acme-upgrade").unwrap().into_iter().map(|(name, _)| name).collect();
        let verbs = ["attach", "status", "history", "rollback"].map(|verb| format!("acme-upgrade-{verb}.8"));
        assert_eq!(names, [&["acme-upgrade.8".to_owned()][..], &verbs].concat());
    }
}
