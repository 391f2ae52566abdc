//! Restores the database from a dump. The superuser creates an empty database, and the owner fills it.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use super::owner::OwnerRole;
use super::psql;
use crate::config::product::Database;
use crate::files;

/// The statements that create a database like one, under a name in psql's variable `new`, and that give it the privileges and settings that
/// it has now: a line or more each. `pg_dump` has them in a part of a dump that only a superuser can restore.
pub(super) fn properties(database: &Database) -> Result<String> {
    // A list of names is stored as it was quoted, and so is not a literal.
    let properties = psql::query(&format!(
        "SELECT sql FROM pg_database d, LATERAL ( \
            SELECT 1 AS place, format('REVOKE ALL ON DATABASE %I FROM PUBLIC, %I;', datname, pg_get_userbyid(datdba)) AS sql \
                WHERE datacl IS NOT NULL \
            UNION ALL SELECT 2, format('GRANT %s ON DATABASE %I TO %s%s;', privilege_type, datname, \
                    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, \
                    CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END) \
                FROM aclexplode(datacl) \
            UNION ALL SELECT 3, format('ALTER DATABASE %I CONNECTION LIMIT %s;', datname, datconnlimit) \
            UNION ALL SELECT 4, format('COMMENT ON DATABASE %I IS %L;', datname, left(shobj_description(oid, 'pg_database'), 10000)) \
                WHERE shobj_description(oid, 'pg_database') IS NOT NULL \
            UNION ALL SELECT 5, format(CASE WHEN key IN ('search_path', 'temp_tablespaces', 'local_preload_libraries', 'session_preload_libraries') \
                    THEN 'BEGIN; SELECT pg_catalog.set_config(%2$L, %3$L, true); %1$s SET %2$I FROM CURRENT; COMMIT;' ELSE '%1$s SET %2$I TO %3$L;' END, \
                    CASE setrole WHEN 0 THEN format('ALTER DATABASE %I', datname) \
                        ELSE format('ALTER ROLE %I IN DATABASE %I', pg_get_userbyid(setrole), datname) END, \
                    key, substr(setting, length(key) + 2)) \
                FROM pg_db_role_setting, unnest(setconfig) AS setting, split_part(setting, '=', 1) AS key WHERE setdatabase = oid \
        ) AS statements WHERE datname = '{}' ORDER BY place",
        database.name
    ))?;
    Ok(creation(&[&database.name])? + &properties)
}

/// The statement that creates an empty database like the first of these that is there.
fn creation(names: &[&str]) -> Result<String> {
    psql::query(&format!(
        "SELECT format('CREATE DATABASE :\"new\" TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L TABLESPACE %I', \
            pg_encoding_to_char(encoding), datcollate, datctype, spcname) \
            || CASE datlocprovider WHEN 'i' THEN ' LOCALE_PROVIDER icu ICU_LOCALE ' || quote_literal(locale) \
                || coalesce(' ICU_RULES ' || quote_literal(d->>'daticurules'), '') \
                WHEN 'b' THEN ' LOCALE_PROVIDER builtin BUILTIN_LOCALE ' || quote_literal(locale) ELSE ' LOCALE_PROVIDER libc' END || ';' \
        FROM pg_database, to_jsonb(pg_database) AS d, coalesce(d->>'datlocale', d->>'daticulocale') AS locale, pg_tablespace t, \
            unnest('{{{}}}'::text[]) WITH ORDINALITY AS names (name, place) \
        WHERE t.oid = dattablespace AND datname = name ORDER BY place LIMIT 1",
        names.join(",")
    ))
}

/// Replaces a database by what is in a dump, with its owner, privileges and settings, and keeps the current one under another name. Until
/// the new one is complete, the current one stays. If there is one of the other name already, that is the one to keep: a repeated
/// restore replaces what is under the database's own name. False if there was none: its owner had dropped it.
pub(super) fn replace(
    database: &Database,
    role: &str,
    kept_as: &str,
    dump: &Path,
    line: &mut dyn FnMut(&str),
) -> Result<bool> {
    let name = &database.name;
    files::open(dump).with_context(|| dump.display().to_string())?;
    // Programs reconnect at once; they must not until the restore is done.
    let _ = psql::write("postgres", &[&allow(name, false)], line);
    let result = fill_and_swap(database, role, kept_as, dump, line);
    if result.is_err() {
        let give_back = format!("ALTER DATABASE \"{name}\" OWNER TO \"{}\"", database.owner);
        let _ = psql::write("postgres", &[&allow(name, true), &give_back], line);
    }
    result
}

fn allow(name: &str, whether: bool) -> String {
    format!("ALTER DATABASE \"{name}\" ALLOW_CONNECTIONS {whether}")
}

/// The statements that drop a database, which its owner may have made, and make again and again, one that cannot be dropped.
fn drop_database(name: &str) -> [String; 2] {
    let take = format!(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_database WHERE datname = '{name}') THEN \
             ALTER DATABASE \"{name}\" OWNER TO CURRENT_USER; ALTER DATABASE \"{name}\" IS_TEMPLATE false; END IF; END $$"
    );
    [take, format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")]
}

fn fill_and_swap(
    database: &Database,
    role: &str,
    kept_as: &str,
    dump: &Path,
    line: &mut dyn FnMut(&str),
) -> Result<bool> {
    let Database { name, owner, .. } = database;
    let open = || files::open(dump).with_context(|| dump.display().to_string());
    let new = format!("{kept_as}_new");
    let [is_there, is_kept] = [is_there(name)?, is_there(kept_as)?];
    let end_sessions = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
         WHERE datname IN ('{name}', '{new}') OR usename = '{owner}'"
    );
    let [take, drop_rest] = drop_database(&new);
    let saved = files::text(dump.with_extension("sql")).unwrap_or_default();
    let (create, properties) = match saved.split_once('\n') {
        Some((create, properties)) if create.starts_with("CREATE DATABASE") => (create.to_owned(), properties),
        // Earlier versions wrote none.
        _ => (creation(&[name, kept_as])?, &*saved),
    };
    // Who could not connect to the old one does not read what is being restored. Privileges that nobody has changed stay as they are:
    // PostgreSQL does not forget that they were.
    let is_open = !properties.contains("REVOKE ALL ON DATABASE");
    let close_to_others =
        if is_open { String::new() } else { format!("REVOKE ALL ON DATABASE \"{new}\" FROM PUBLIC;") };
    psql::write("postgres", &[&take, &drop_rest], line)?;
    psql::feed(&format!("\\set new {new}\n{create}\n{close_to_others}\n"))?;
    let role = OwnerRole::create(database, role)?;
    let (list, extensions) = split(&role.contents(open()?)?, &database.extensions);
    for extension in extensions {
        psql::write(&new, &[&format!("CREATE EXTENSION \"{extension}\" SCHEMA public")], line)?;
    }
    // From here on, the new database is its owner's, too.
    psql::write("postgres", &[&format!("ALTER DATABASE \"{new}\" OWNER TO \"{owner}\"")], line)?;
    // The program inherits it under the same number, and may open it with its other account.
    let mut file = File::from(memfd_create("list", MemfdFlags::empty())?);
    file.write_all(list.as_bytes())?;
    role.restore(&new, open()?, &format!("/proc/self/fd/{}", file.as_raw_fd()), line)?;
    drop(role);

    let rename = |from: &str, to: &str| format!("ALTER DATABASE \"{from}\" RENAME TO \"{to}\"");
    let close = allow(&new, false);
    // One transaction, or the old one is gone already.
    let ([take, old], swap) = match (is_there, is_kept) {
        (true, false) => (Default::default(), format!("{}; {}", rename(name, kept_as), rename(&new, name))),
        _ => (drop_database(name), rename(&new, name)),
    };
    psql::write("postgres", &[&close, &end_sessions, &take, &old, &swap], line)?;
    // What the owner has set may not be possible any more: that ends no rollback.
    psql::attempt(properties, line)?;
    let is_kept = is_there || is_kept;
    psql::write("postgres", &[&allow(name, true), &if is_kept { allow(kept_as, true) } else { String::new() }], line)?;
    Ok(is_kept)
}

fn is_there(name: &str) -> Result<bool> {
    Ok(!psql::query(&format!("SELECT 1 FROM pg_database WHERE datname = '{name}'"))?.is_empty())
}

/// Splits the contents of a dump: what its owner restores, and the declared extensions, which the superuser creates.
fn split(contents: &str, extensions: &[String]) -> (String, Vec<String>) {
    let (mut list, mut found) = (String::new(), Vec::new());
    for line in contents.lines() {
        // `2; 3079 16385 EXTENSION - pgcrypto`, with the name of the owner behind it if there is one.
        let entry = line.splitn(4, ' ').nth(3).unwrap_or_default();
        let extension = |entry: &str| extensions.iter().find(|name| entry.trim_end() == **name).cloned();
        if let Some(name) = entry.strip_prefix("EXTENSION - ").and_then(extension) {
            found.push(name);
        } else if entry.strip_prefix("COMMENT - EXTENSION ").and_then(extension).is_none()
            // It belonged to the superuser before PostgreSQL 15.
            && entry.trim_end() != "SCHEMA - public postgres"
        {
            list.push_str(line);
            list.push('\n');
        }
    }
    (list, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_restores_everything_but_declared_extensions() {
        let contents = ";\n; Archive created at 2026-11-22\n;\n\
            5; 2615 2200 SCHEMA - public postgres\n\
            2; 3079 16385 EXTENSION - dblink \n\
            3362; 0 0 COMMENT - EXTENSION dblink \n\
            3; 3079 16431 EXTENSION - citext \n\
            3363; 0 0 COMMENT - EXTENSION citext \n\
            215; 1259 16402 TABLE public calls asterisk\n";
        let (list, extensions) = split(contents, &["dblink".to_owned(), "postgis".to_owned()]);
        assert_eq!(extensions, ["dblink"]);
        let kept: Vec<&str> = list.lines().filter(|line| !line.starts_with(';')).collect();
        assert_eq!(
            kept,
            [
                "3; 3079 16431 EXTENSION - citext ",
                "3363; 0 0 COMMENT - EXTENSION citext ",
                "215; 1259 16402 TABLE public calls asterisk"
            ]
        );
    }
}
