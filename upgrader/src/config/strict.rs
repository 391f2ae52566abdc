//! Parses TOML files; errors have the number of the line.

use std::time::Duration;

use anyhow::Result;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// The longest time that can be waited for anything.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads the text of a TOML file. What is wrong is one line that names the key, and comes with the number of the file's line.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, (usize, String)> {
    toml::from_str(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        let line = line_at(text, error.span().map_or(0, |span| span.start));
        let key = text.lines().nth(line - 1).and_then(|text| text.split_once('=')).map_or("", |(key, _)| key.trim());
        // In a table on one line the first key need not be the one that is meant.
        let key = if key.starts_with('{') { "" } else { key };
        // What is missing is not on that line.
        let named = key.is_empty() || message.contains(&format!("`{key}`")) || message.starts_with("missing");
        (line, if named { message } else { format!("{key}: {message}") })
    })
}

/// The number of the line that has this byte of a text, counted from 1.
pub fn line_at(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
}

/// A span of time as people write it, and longer than none: `60s`, `2m 30s`; at most a day.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    span_as_written(deserializer, |span| !span.is_zero())
}

/// A span of time as people write it, `0s` included; at most a day.
pub fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    span_as_written(deserializer, |_| true)
}

fn span_as_written<'de, D: Deserializer<'de>>(
    deserializer: D,
    is_good: fn(Duration) -> bool,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| is_good(*duration) && *duration <= LONGEST)
        .ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a span of time such as \"60s\" or \"2m\", at most a day"))
        })
}
