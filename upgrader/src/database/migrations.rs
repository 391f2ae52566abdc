//! Migration files, and which of them a database still needs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::sql;
use crate::exit::Failure;
use crate::files;
use crate::system::entries;

/// A migration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Migration {
    /// Its name without `.sql`, as it is shown and recorded: `003-call-log`.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// The SHA-256 of its content, in hexadecimal.
    pub(super) checksum: String,
    number: u32,
    content: Vec<u8>,
}

/// What is in a directory of migrations.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MigrationFiles {
    /// In order of their numbers.
    pub(super) migrations: Vec<Migration>,
    /// The names of what is no migration.
    pub(super) skipped: Vec<String>,
}

/// A migration that the database says was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) name: String,
    /// Absent if the migration was part of a freshly installed schema, so that no file was applied.
    pub(super) checksum: Option<String>,
}

/// What to do about files that only the vendor can set right.
const VENDOR: &str =
    "Migrations are shipped with the product: install its upgrade package again, or report this to its vendor.";

/// Looks into a directory of migrations. One that does not exist has none.
///
/// # Errors
/// If a file is called `*.sql` but is no migration by its name (it would never be applied), or two have the same number.
pub(super) fn find(directory: &Path) -> Result<MigrationFiles> {
    let mut found = MigrationFiles::default();
    let entries = entries(directory).with_context(|| {
        Failure::new(format!("{}: the migrations cannot be read", directory.display())).remedy(VENDOR)
    });
    for path in entries? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((number, stem)) = parse_name(&name) else {
            if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("sql")) {
                let wrong = format!("{}: not a name for a migration, such as 003-call-log.sql", path.display());
                return Err(Failure::new(wrong).remedy(VENDOR).into());
            }
            found.skipped.push(name);
            continue;
        };
        found.migrations.push(Migration::read(stem, number, path)?);
    }
    found.migrations.sort_by_key(|migration| migration.number);
    for pair in found.migrations.windows(2) {
        if let [first, second] = pair
            && first.number == second.number
        {
            let twice = format!("{}: {}.sql has the same number", second.path.display(), first.name);
            return Err(Failure::new(twice).remedy(VENDOR).into());
        }
    }
    Ok(found)
}

/// Refuses migration files beside a product's own migration command, which does not apply them.
pub(super) fn none_beside(directory: &Path, command: &[String]) -> Result<()> {
    match find(directory)?.migrations.first() {
        None => Ok(()),
        Some(migration) => Err(Failure::new(format!(
            "{}: it would never be applied, because product.toml has database.migrate = {command:?}",
            migration.path.display()
        ))
        .remedy(VENDOR)
        .into()),
    }
}

/// The migrations that are not applied yet, in order.
///
/// # Errors
/// If an applied one was changed or is gone; if the database knows one that comes after all files, which makes it newer
/// than this upgrader; if a pending one comes before an applied one, an order that was never tested.
pub(super) fn pending(found: Vec<Migration>, applied: &[Applied]) -> Result<Vec<Migration>> {
    let last_file = found.last().map(|migration| (migration.number, migration.name.clone()));
    for record in applied {
        if found.iter().any(|migration| migration.name == record.name) {
            continue;
        }
        let number = parse_name(&format!("{}.sql", record.name)).map(|(number, _)| number);
        if let (Some(number), Some((last, name))) = (number, &last_file)
            && number <= *last
        {
            return Err(Failure::new(format!(
                "the migration {} was applied to the database, but its file is gone: the files go up to {name}",
                record.name
            ))
            .remedy(VENDOR)
            .into());
        }
        let end =
            last_file.as_ref().map_or("there are no files".to_owned(), |(_, name)| format!("they end with {name}"));
        return Err(Failure::new(format!(
            "the database is newer than this upgrader's migrations: {} was applied to it, and {end}",
            record.name
        ))
        .remedy(
            "Install the version of the product's upgrade package that this database was migrated by, or a newer one.",
        )
        .into());
    }
    let newest = found.iter().rfind(|migration| migration.record(applied).is_some());
    let newest = newest.map(|migration| (migration.number, migration.name.clone()));
    let mut pending = Vec::new();
    for migration in found {
        match (migration.record(applied), &newest) {
            (Some(Applied { checksum: Some(checksum), .. }), _) if *checksum != migration.checksum => {
                return Err(Failure::new(format!("{}: changed since it was applied", migration.path.display()))
                    .remedy(format!("What was applied cannot be changed, only followed by a new migration. {VENDOR}"))
                    .into());
            }
            (Some(_), _) => {}
            (None, Some((number, newest))) if migration.number < *number => {
                return Err(Failure::new(format!(
                    "{}: not applied, although {newest}, which comes after it, is",
                    migration.path.display()
                ))
                .remedy(format!("A new migration needs a number after all others. {VENDOR}"))
                .into());
            }
            (None, _) => pending.push(migration),
        }
    }
    Ok(pending)
}

/// Reads what psql printed of the table: a line each, name and checksum with a tab between.
pub(super) fn parse_applied(output: &str) -> Vec<Applied> {
    let records = output.lines().filter(|line| !line.is_empty()).map(|line| {
        let (name, checksum) = line.split_once('\t').unwrap_or((line, ""));
        let checksum = Some(checksum.trim().to_owned()).filter(|checksum| !checksum.is_empty());
        Applied { name: name.to_owned(), checksum }
    });
    records.collect()
}

impl Migration {
    fn read(name: String, number: u32, path: PathBuf) -> Result<Self> {
        let content = files::content(&path).with_context(|| {
            Failure::new(format!("{}: the migration cannot be read", path.display())).remedy(VENDOR)
        })?;
        let checksum = format!("{:x}", Sha256::digest(&content));
        Ok(Self { name, path, checksum, number, content })
    }

    /// Looks at a file that is about to be applied.
    ///
    /// # Errors
    /// If it does what a migration must not do ([`sql::refused`]), or is not UTF-8.
    pub(super) fn check(&self) -> Result<()> {
        if let Some((line, what)) = sql::refused(&self.content) {
            return Err(Failure::new(format!("{}:{line}: {what}", self.path.display())).remedy(VENDOR).into());
        }
        self.text().map(drop)
    }

    /// Its statements. PostgreSQL takes no other encoding than UTF-8 from us.
    pub(super) fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.content)
            .with_context(|| Failure::new(format!("{}: not a text in UTF-8", self.path.display())).remedy(VENDOR))
    }

    fn record<'a>(&self, applied: &'a [Applied]) -> Option<&'a Applied> {
        applied.iter().find(|record| record.name == self.name)
    }
}

/// The number of a migration and its name without `.sql`: `003-call-log.sql` has three to nine digits, a dash, and then
/// letters, digits, `_` and `-`.
pub(super) fn parse_name(file: &str) -> Option<(u32, String)> {
    let stem = file.strip_suffix(".sql")?;
    let (digits, rest) = stem.split_once('-')?;
    let good = (3..=9).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !rest.is_empty()
        && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    Some((digits.parse().ok().filter(|_| good)?, stem.to_owned()))
}

#[cfg(test)]
mod tests {
    use documented::Page;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_statements_are_as_documented() {
        let page = Page::read("docs/reference/migrations.md");
        assert!(parse_name("003-call-log.sql").is_some() && page.quoted().contains("003-call-log.sql"));
        for statement in page.section("## Files").column(0) {
            assert!(sql::refused(statement.as_bytes()).is_some(), "{statement} is not refused");
        }
        let fine: Vec<String> = page.section("## Files").column(1).collect();
        assert!(!fine.is_empty());
        for statement in fine {
            assert_eq!(sql::refused(statement.as_bytes()), None, "{statement}");
        }
    }

    /// A directory with these files; the content of each is its name.
    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for file in files {
            std::fs::write(directory.path().join(file), file).expect("written");
        }
        directory
    }

    fn files(names: &[&str]) -> Vec<Migration> {
        find(directory(names).path()).expect("good names").migrations
    }

    fn applied(migrations: &[Migration]) -> Vec<Applied> {
        let line = |migration: &Migration| format!("{}\t{}\n", migration.name, migration.checksum);
        parse_applied(&migrations.iter().map(line).collect::<String>())
    }

    fn complaint(found: Vec<Migration>, applied: &[Applied]) -> String {
        let text = pending(found, applied).expect_err("it is bad").to_string();
        text.rsplit('/').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn migrations_are_applied_in_order_of_their_numbers_and_what_is_none_is_told() {
        let directory =
            directory(&["1000-d.sql", "0020-c.sql", "003-b.sql", "README.md", "002-a.sql", "002-a.sql.dpkg-old"]);
        let found = find(directory.path()).expect("good names");
        let names: Vec<&str> = found.migrations.iter().map(|migration| migration.name.as_str()).collect();
        assert_eq!(names, ["002-a", "003-b", "0020-c", "1000-d"]);
        assert_eq!(found.skipped, ["002-a.sql.dpkg-old", "README.md"]);
        assert_eq!(find(&directory.path().join("absent")).expect("absent is fine"), MigrationFiles::default());
    }

    #[test]
    fn a_file_that_would_never_be_applied_is_an_error_and_so_is_a_number_used_twice() {
        for (files, said) in [
            (&["3-a.sql"][..], "3-a.sql: not a name for a migration"),
            (&["003_a.sql"], "003_a.sql: not a name for a migration"),
            (&["003-a.SQL"], "003-a.SQL: not a name for a migration"),
            (&["003-.sql"], "003-.sql: not a name for a migration"),
            (&["003-a b.sql"], "003-a b.sql: not a name for a migration"),
            (&["003-a.sql", "0003-b.sql"], "003-a.sql: 0003-b.sql has the same number"),
        ] {
            let error = find(directory(files).path()).expect_err("it is bad").to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_is_not_recorded_is_pending() {
        let found = files(&["001-a.sql", "002-b.sql", "003-c.sql"]);
        assert_eq!(pending(found.clone(), &[]).expect("good"), found);
        assert_eq!(pending(found.clone(), &applied(&found[..1])).expect("good"), found[1..]);
        assert_eq!(pending(found.clone(), &applied(&found)).expect("good"), []);
    }

    #[test]
    fn a_record_without_a_checksum_is_of_a_schema_that_was_installed_fresh() {
        let found = files(&["001-a.sql", "002-b.sql"]);
        assert_eq!(pending(found.clone(), &parse_applied("001-a\t\n")).expect("good"), found[1..]);
    }

    #[test]
    fn a_history_that_does_not_fit_the_files_is_refused() {
        let found = files(&["001-a.sql", "002-b.sql", "003-c.sql"]);
        let mut changed = applied(&found);
        changed[1].checksum = Some("0".to_owned());
        let out_of_order = applied(&found[1..2]);
        insta::assert_snapshot!([
            complaint(found.clone(), &changed),
            complaint(found.clone(), &out_of_order),
            complaint(found[..2].to_vec(), &applied(&found)),
            complaint(found[1..].to_vec(), &applied(&found)),
            complaint(Vec::new(), &applied(&found)),
            complaint(found.clone(), &parse_applied("of another tool\tx\n")),
        ]
        .join("\n"), @"
        002-b.sql: changed since it was applied
        001-a.sql: not applied, although 002-b, which comes after it, is
        the database is newer than this upgrader's migrations: 003-c was applied to it, and they end with 002-b
        the migration 001-a was applied to the database, but its file is gone: the files go up to 003-c
        the database is newer than this upgrader's migrations: 001-a was applied to it, and there are no files
        the database is newer than this upgrader's migrations: of another tool was applied to it, and they end with 003-c
        ");
    }

    proptest! {
        #[test]
        fn no_name_and_no_record_makes_it_panic(name in ".*", output in "(?s).*") {
            if let Some((number, stem)) = parse_name(&name) {
                prop_assert!(number < 1_000_000_000);
                prop_assert_eq!(stem + ".sql", name);
            }
            let _ = pending(files(&["001-a.sql"]), &parse_applied(&output));
        }

        #[test]
        fn a_good_name_is_taken_apart_and_together_again(number in 0u32..1_000_000_000, rest in "[A-Za-z0-9_-]{1,40}") {
            let name = format!("{number:03}-{rest}.sql");
            prop_assert_eq!(parse_name(&name), Some((number, format!("{number:03}-{rest}"))));
        }
    }
}
