//! Redacts what varies between runs from screens.

use crate::machines::transcript::Transcript;

/// A screen without the lists of Debian's packages and the versions of those that need a reboot: Debian publishes newer ones every week.
pub(super) fn without_debians_packages(shown: &str) -> String {
    const LISTS: [&str; 4] = ["System packages to upgrade", "New packages", "Packages to remove", "Download: "];
    let line = |line: &str| match line
        .split_once(" -> ")
        .and_then(|(before, rest)| Some((before, rest.split_once(": ")?)))
    {
        Some((before, (_, why))) => format!("{} ...: {why}", before.rsplit_once(' ').map_or(before, |(name, _)| name)),
        None => line.to_owned(),
    };
    let paragraph = |paragraph: &str| match LISTS.iter().find(|list| paragraph.starts_with(**list)) {
        Some(list) => {
            let rest = paragraph.lines().skip_while(|line| !line.starts_with("Services to restart"));
            std::iter::once(format!("{list}...")).chain(rest.map(str::to_owned)).collect::<Vec<_>>().join("\n")
        }
        None => paragraph.split('\n').map(line).collect::<Vec<_>>().join("\n"),
    };
    shown.split("\n\n").map(paragraph).collect::<Vec<_>>().join("\n\n")
}

/// The screen of a run until the power was cut. Processes do not end in the same instant: some still report that others are gone.
pub(super) fn without_exit(transcript: &Transcript) -> String {
    let lines = transcript.screen.lines().take_while(|line| !line.starts_with("error: "));
    let screen = lines.collect::<Vec<_>>().join("\n");
    format!("$ {}\n{}\n[the power was cut]\n", transcript.command, screen.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_debian_publishes_every_week_is_not_compared() {
        let shown = "XiVO packages to upgrade (1):\n  xivo 1 -> 2\n\nNew packages (1):\n  a 1\n\nDownload: 5 MB\nServices to restart: x\n\n\
                     Reboot recommended\n  dbus 1:1 -> 1:2: it is in use\n";
        let without = "XiVO packages to upgrade (1):\n  xivo 1 -> 2\n\nNew packages...\n\nDownload: ...\nServices to restart: x\n\n\
                       Reboot recommended\n  dbus ...: it is in use\n";
        assert_eq!(without_debians_packages(shown), without);
    }
}
