//! Attacks by the role that owns the product's database. It may do what it wants there, and must get nothing more by an upgrade.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use harness::machines::database::{CALLS, ask};
use harness::machines::image::Debian;
use harness::machines::machine::Machine;

use crate::database::{MIGRATIONS, exchange, upgrader};
use crate::scenario::scenarios;

mod lasting;

scenarios! {
    /// The owner of the database gets no other rights by an upgrade, a rollback or a plan, and cannot keep one from ending.
    Checked hostile_owner;
    /// A plan that is killed leaves no session and no role that works, and the next one removes the role.
    Checked killed_session;
    /// Privileges, settings, a comment and extensions of the database are restored by a rollback, and a session role that pg_hba.conf does not let in is reported by the plan.
    Checked restored_properties;
}

/// An attack by the owner of the database.
struct Attack {
    name: &'static str,
    /// What the owner does before the run, with the function `attack()` in place.
    sql: &'static str,
    /// What it holds in an open transaction during the run.
    held: &'static str,
    /// A shell script that works during the run.
    during: &'static str,
    /// The account that runs it. It has a role of its name.
    account: &'static str,
    /// A shell command of root that succeeds if the attack took place.
    tried: &'static str,
    /// A shell command of root that succeeds if the attack got nothing.
    holds: &'static str,
    /// The arguments of xivo-upgrade.
    arguments: &'static str,
    /// The pending migration, which the vendor has written.
    migration: &'static str,
    /// The exit codes that are true.
    exits: &'static [i32],
    /// The arguments of another run, after the end of the attack.
    again: &'static str,
    /// Its exit codes that are true.
    again_exits: &'static [i32],
}

const DEFAULT: Attack = Attack {
    name: "",
    sql: "SELECT 1",
    held: "",
    during: "",
    account: "asterisk",
    tried: "",
    holds: "",
    arguments: "--dry-run",
    migration: UPDATE,
    exits: &[0],
    again: "",
    again_exits: &[0],
};

/// Watches the memory of the upgrader.
const WATCH: &str = include_str!("../../src/faults/attack/watch.pl");

/// The limit of the memory of a process of the upgrader, in kilobytes.
const MEMORY: u64 = 128_000;

/// The limit of a run, in seconds.
const SECONDS: u32 = 200;

/// Fires triggers of `calls`.
const UPDATE: &str = "UPDATE calls SET caller = caller;\n";

/// Fires them, then fails.
const FAILS: &str = "UPDATE calls SET caller = caller;\nSELECT 1/0;\n";

/// Tries everything that makes more of the session that runs it.
const ATTACK: &str = r"
CREATE FUNCTION public.attack() RETURNS int LANGUAGE plpgsql AS $attack$
DECLARE statement text;
BEGIN
    FOREACH statement IN ARRAY ARRAY['RESET ROLE', 'SET ROLE postgres', 'ALTER ROLE asterisk SUPERUSER', 'ALTER ROLE asterisk CREATEROLE',
        'GRANT pg_execute_server_program TO asterisk', $$COPY (SELECT '') TO PROGRAM 'touch /tmp/owned'$$, $$COPY (SELECT '') TO '/tmp/owned'$$]
    LOOP
        BEGIN EXECUTE statement; EXCEPTION WHEN OTHERS THEN NULL; END;
    END LOOP;
    RETURN 1;
END $attack$;
CREATE FUNCTION public.attack_by_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM public.attack(); RETURN new; END';
CREATE SCHEMA xivo_upgrade;
";

const RECORDS: &str =
    "CREATE TABLE xivo_upgrade.migrations (name text PRIMARY KEY, checksum text, applied timestamptz DEFAULT now());";

/// Parts of the names of the attacks that are made where ATTACK does not choose any.
const CHOSEN: [&str; 3] = ["a CHECK constraint", "view", "to_regclass"];

/// The attacks. Those with a rollback come first: the packages are upgraded once.
const ATTACKS: &[Attack] = &[
    Attack {
        name: "a CHECK constraint has a function, which runs when the dump is restored",
        sql: "ALTER TABLE calls ADD CHECK (public.attack() = 1)",
        arguments: "--yes",
        migration: FAILS,
        exits: &[4],
        ..DEFAULT
    },
    Attack {
        name: "a domain has a CHECK constraint with a function, which runs when the dump is restored",
        sql: "CREATE DOMAIN checked AS text CHECK (public.attack() = 1); ALTER TABLE calls ADD checked checked DEFAULT 'x'",
        arguments: "--yes",
        migration: FAILS,
        exits: &[4],
        ..DEFAULT
    },
    Attack {
        name: "a view is in place of the records",
        sql: "CREATE VIEW xivo_upgrade.migrations AS SELECT 'x'::text AS name, NULL::text AS checksum WHERE public.attack() = 0",
        ..DEFAULT
    },
    Attack {
        name: "the search path of the database has an own to_regclass",
        sql: "CREATE SCHEMA evil;
              CREATE FUNCTION evil.to_regclass(text) RETURNS regclass LANGUAGE sql AS 'SELECT NULL::regclass WHERE public.attack() = 1';
              CREATE FUNCTION evil.left(text, int) RETURNS text LANGUAGE sql AS 'SELECT $1 WHERE public.attack() = 1';
              ALTER DATABASE asterisk SET search_path = evil, pg_catalog",
        ..DEFAULT
    },
    Attack {
        name: "the search path of the database has own operators",
        sql: "CREATE SCHEMA evil;
              CREATE FUNCTION evil.equal(name, name) RETURNS bool LANGUAGE sql AS 'SELECT $1 OPERATOR(pg_catalog.=) $2 AND public.attack() = 1';
              CREATE FUNCTION evil.equal(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT $1 OPERATOR(pg_catalog.=) $2 AND public.attack() = 1';
              CREATE FUNCTION evil.equal(text, text) RETURNS bool LANGUAGE sql AS 'SELECT $1 OPERATOR(pg_catalog.=) $2 AND public.attack() = 1';
              CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, FUNCTION = evil.equal);
              CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.equal);
              CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.equal);
              ALTER DATABASE asterisk SET search_path = evil, public, pg_catalog",
        arguments: "--yes",
        ..DEFAULT
    },
    Attack {
        name: "the records have a trigger",
        sql: "CREATE TABLE xivo_upgrade.migrations (name text PRIMARY KEY, checksum text, applied timestamptz DEFAULT now());
              CREATE TRIGGER attack BEFORE INSERT ON xivo_upgrade.migrations FOR EACH ROW EXECUTE FUNCTION public.attack_by_trigger()",
        arguments: "--yes",
        ..DEFAULT
    },
    Attack {
        name: "the records have a rule",
        sql: "CREATE TABLE xivo_upgrade.migrations (name text PRIMARY KEY, checksum text, applied timestamptz DEFAULT now());
              CREATE RULE attack AS ON INSERT TO xivo_upgrade.migrations DO ALSO SELECT public.attack()",
        arguments: "--yes",
        ..DEFAULT
    },
    Attack {
        name: "a table that a migration changes has a trigger",
        sql: "CREATE TRIGGER attack BEFORE UPDATE ON calls FOR EACH ROW EXECUTE FUNCTION public.attack_by_trigger()",
        arguments: "--yes",
        ..DEFAULT
    },
    Attack {
        name: "a table that a migration changes has a trigger that runs when the transaction ends",
        sql: "CREATE CONSTRAINT TRIGGER attack AFTER UPDATE ON calls DEFERRABLE INITIALLY DEFERRED
              FOR EACH ROW EXECUTE FUNCTION public.attack_by_trigger()",
        arguments: "--yes",
        ..DEFAULT
    },
    Attack {
        name: "a trigger has the session of the migration own something, and changes its password",
        sql: "CREATE FUNCTION public.own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                  SET ROLE NONE; CREATE TABLE public.owned (); ALTER ROLE CURRENT_USER PASSWORD 'known'; RETURN NULL; END $$;
              GRANT ALL ON SCHEMA public TO public;
              CREATE TRIGGER attack AFTER UPDATE ON calls FOR EACH STATEMENT EXECUTE FUNCTION public.own()",
        arguments: "--yes",
        exits: &[0, 5],
        ..DEFAULT
    },
    Attack {
        name: "the settings of the database are hostile",
        sql: "ALTER DATABASE asterisk SET standard_conforming_strings = off;
              ALTER DATABASE asterisk SET client_encoding = 'SJIS';
              ALTER DATABASE asterisk SET default_transaction_read_only = on;
              ALTER DATABASE asterisk SET statement_timeout = '1ms';
              ALTER DATABASE asterisk SET role = 'pg_monitor'",
        migration: "UPDATE calls SET caller = 'C:\\';\n",
        arguments: "--yes",
        ..DEFAULT
    },
    Attack {
        name: "a record has the form of a command",
        sql: "CREATE TABLE xivo_upgrade.migrations (name text PRIMARY KEY, checksum text, applied timestamptz DEFAULT now());
              INSERT INTO xivo_upgrade.migrations (name) VALUES (E'\\n\\\\! touch /tmp/owned\\n')",
        exits: &[1],
        ..DEFAULT
    },
    Attack {
        name: "another session holds a lock on the records",
        sql: "CREATE TABLE xivo_upgrade.migrations (name text PRIMARY KEY, checksum text, applied timestamptz DEFAULT now())",
        held: "LOCK TABLE xivo_upgrade.migrations",
        exits: &[1],
        ..DEFAULT
    },
    Attack {
        name: "another session holds a lock on a table",
        held: "LOCK TABLE calls",
        arguments: "--yes",
        exits: &[4, 5],
        ..DEFAULT
    },
    Attack {
        name: "the records never end",
        sql: "CREATE VIEW xivo_upgrade.migrations AS SELECT repeat('x', 1000) || n AS name, NULL::text AS checksum
              FROM generate_series(1, 1000000000000) n",
        exits: &[1],
        ..DEFAULT
    },
    Attack {
        name: "the records sleep",
        sql: "CREATE VIEW xivo_upgrade.migrations AS SELECT pg_sleep(100000)::text AS name, NULL::text AS checksum",
        exits: &[1],
        ..DEFAULT
    },
    Attack {
        name: "the database accepts no connections",
        sql: "ALTER DATABASE asterisk CONNECTION LIMIT 0",
        exits: &[1],
        ..DEFAULT
    },
];

/// Empties the server of what the last attack has left, with the rights of an admin.
const RESET: &str = r#"systemctl stop attack 2>/dev/null || :
systemctl restart postgresql; until pg_isready --quiet; do sleep 0.1; done
rm -f /tmp/owned /tmp/tried /tmp/read
psql() { runuser -u postgres -- psql -XAtq --set=ON_ERROR_STOP=1 "$@"; }
psql --command='ALTER ROLE postgres PASSWORD NULL' --command='ALTER ROLE asterisk NOSUPERUSER NOCREATEROLE' --command='REVOKE pg_execute_server_program FROM asterisk'
psql --command="SELECT datname FROM pg_database WHERE datname LIKE 'asterisk%'" | while read -r name; do
    psql --command="ALTER DATABASE \"$name\" WITH CONNECTION LIMIT -1 IS_TEMPLATE false" --command="DROP DATABASE \"$name\" WITH (FORCE)"
done
psql --command='SELECT lo_unlink(oid) FROM pg_largeobject_metadata' >/dev/null
psql --command='DROP ROLE IF EXISTS nobody' --command='CREATE ROLE nobody LOGIN' --command='DROP ROLE IF EXISTS xivo_upgrade_session' --command='CREATE DATABASE asterisk OWNER asterisk'"#;

/// What the owner cannot have changed.
const ROLES: &str =
    "SELECT 'role', a::text FROM pg_authid a UNION ALL SELECT 'member', m::text FROM pg_auth_members m ORDER BY 1, 2";

/// Has the owner of the database do something, in a session of its own account.
fn as_owner(machine: &Machine, sql: &str) -> Result<()> {
    machine.write("/srv/attack.sql", sql.as_bytes(), 0o644)?;
    machine
        .sh("runuser -u asterisk -- psql -Xq --set=ON_ERROR_STOP=1 --dbname=asterisk --file=/srv/attack.sql")
        .map(drop)
}

/// Opens a transaction of the owner that holds something.
fn hold(machine: &Machine, sql: &str) -> Result<()> {
    machine.write("/srv/held.sql", format!("BEGIN;\n{sql};\nSELECT pg_sleep(100000);\n").as_bytes(), 0o644)?;
    machine.sh("systemd-run --quiet --collect --unit=attack runuser -u asterisk -- psql -Xq --dbname=asterisk --file=/srv/held.sql")?;
    machine.sh(
        "until runuser -u postgres -- psql -XAtqc \"SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(100000)%' AND usename = 'asterisk'\" | grep -q 1
         do sleep 0.1; done",
    )?;
    Ok(())
}

/// A machine on which the owner of the database has an account.
fn prepare(machine: &Machine) -> Result<()> {
    machine.sh("useradd --system asterisk; mkdir -p /etc/xivo-upgrade").map(drop)
}

/// Starts a script in an account. `q` asks the database `postgres`.
fn start(machine: &Machine, account: &str, script: &str) -> Result<()> {
    let script = format!("q() {{ psql -XAtqw --dbname=postgres --command=\"$1\" 2>/dev/null; }}\n{script}\n");
    machine.write("/srv/attack.sh", script.as_bytes(), 0o644)?;
    machine
        .sh(&format!(
            "systemd-run --quiet --collect --unit=attack --uid={account} --working-directory=/tmp sh /srv/attack.sh"
        ))
        .map(drop)
}

/// Runs the upgrader. Returns what was wrong, and the screen.
fn run(machine: &Machine, arguments: &str, exits: &[i32]) -> Result<(String, String)> {
    let output = machine.sh(&format!(
        "rm -f /run/over; perl /srv/watch.pl /run/over {MEMORY} >/tmp/peak & started=$(date +%s)
         timeout --kill-after=1 {SECONDS} xivo-upgrade {arguments} </dev/null >/tmp/screen 2>&1 || exit=$?
         seconds=$(($(date +%s) - started)); touch /run/over; wait
         test ${{exit:-0}} -lt 124 || systemctl kill --signal=KILL 'xivo-upgrade*.service' 2>/dev/null || :
         echo ${{exit:-0}} $seconds $(cat /tmp/peak); systemctl stop 'xivo-upgrade*.service' 2>/dev/null || :; cat /tmp/screen",
    ))?;
    let (first, screen) = output.split_once('\n').unwrap_or_default();
    let [exit, seconds, peak] = first.split(' ').collect::<Vec<_>>()[..] else {
        return Ok((format!(" no exit code: {first}"), screen.to_owned()));
    };
    let mut wrong = String::new();
    if !exit.parse().is_ok_and(|exit: i32| exits.contains(&exit)) {
        write!(wrong, " `{arguments}`: exit code {exit} after {seconds} s;")?;
    }
    if !peak.parse().is_ok_and(|peak: u64| peak <= MEMORY) {
        write!(wrong, " `{arguments}` took {peak} kB of memory;")?;
    }
    Ok((wrong, format!("{arguments}: exit code {exit} after {seconds} s, {peak} kB\n{screen}")))
}

/// Makes an attack. Returns what succeeded.
fn attempt(machine: &Machine, attack: &Attack) -> Result<String> {
    machine.sh(RESET)?;
    let roles = ask(machine, "postgres", ROLES)?;
    let calls = format!(
        "CREATE TABLE calls (id int PRIMARY KEY, caller text);
         INSERT INTO calls SELECT n, 'agent ' || n FROM generate_series(1, {CALLS}) n;"
    );
    as_owner(machine, &format!("{ATTACK}\n{calls}\n{};\n", attack.sql))?;
    machine.write(&format!("{MIGRATIONS}/001-update.sql"), attack.migration.as_bytes(), 0o644)?;
    if !attack.held.is_empty() {
        hold(machine, attack.held)?;
    }
    if !attack.during.is_empty() {
        start(machine, attack.account, attack.during)?;
    }
    // A run that is killed by the limit has failed.
    let (mut wrong, mut screen) = run(machine, attack.arguments, attack.exits)?;
    if !attack.tried.is_empty() && machine.sh(attack.tried).is_err() {
        wrong.push_str(" the attack was not tried;");
    }
    if !attack.holds.is_empty() && machine.sh(attack.holds).is_err() {
        wrong.push_str(" the attack got what it wanted;");
    }
    if !attack.again.is_empty() {
        // The server goes on with what a client has asked for when the client is gone.
        machine.sh("systemctl stop attack 2>/dev/null || :; runuser -u postgres -- psql -XAtqc \"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename IN ('asterisk', 'nobody')\"")?;
        let again = run(machine, attack.again, attack.again_exits)?;
        wrong.push_str(&again.0);
        screen.push_str(&again.1);
    }
    if !machine.sh("ls /tmp/owned 2>/dev/null || :")?.is_empty() {
        wrong.push_str(" a file was written as the account postgres;");
    }
    let now = ask(machine, "postgres", ROLES)?;
    if now != roles {
        write!(wrong, " the roles are {now};")?;
    }
    Ok(if wrong.is_empty() { String::new() } else { format!("{}:{wrong}\n{screen}\n", attack.name) })
}

fn hostile_owner(debian: Debian) -> Result<()> {
    let world = exchange(debian, &upgrader("", &[])?)?;
    let machine = &world.machine;
    prepare(machine)?;
    machine.write("/srv/watch.pl", WATCH.as_bytes(), 0o644)?;
    // `make attacks` makes all of them; some wait for a time limit.
    let wanted = std::env::var("ATTACK").ok();
    let is_wanted = |attack: &&Attack| match &wanted {
        Some(names) => names == "all" || names.split('|').any(|name| attack.name.contains(name)),
        None => CHOSEN.iter().any(|name| attack.name.contains(name)),
    };
    let mut succeeded = String::new();
    for attack in lasting::ATTACKS.iter().chain(ATTACKS).filter(is_wanted) {
        succeeded.push_str(&attempt(machine, attack)?);
    }
    ensure!(succeeded.is_empty(), "{succeeded}");
    Ok(())
}

fn killed_session(debian: Debian) -> Result<()> {
    let world = exchange(debian, &upgrader("", &[("001-update.sql", UPDATE)])?)?;
    let machine = &world.machine;
    prepare(machine)?;
    let roles = ask(machine, "postgres", ROLES)?;
    // With TLS, the password proves that this is the server. The server logs all that it is told.
    ensure!(ask(machine, "postgres", "SHOW ssl")? == "on\n");
    ask(machine, "postgres", "ALTER SYSTEM SET log_statement = 'all'")?;
    ask(machine, "postgres", "SELECT pg_reload_conf()")?;
    as_owner(machine, &format!("CREATE SCHEMA xivo_upgrade; {RECORDS}"))?;
    hold(machine, "LOCK TABLE xivo_upgrade.migrations")?;
    let sessions = "runuser -u postgres -- psql -XAtqc \"SELECT count(*) FROM pg_stat_activity WHERE usename = 'xivo_upgrade_session'\"";
    machine.sh(&format!(
        "systemd-run --quiet --collect --unit=plan --property=KillMode=process xivo-upgrade --dry-run
         for try in $(seq 300); do if {sessions} | grep -q 1 && pgrep --uid 65533 >/dev/null; then exit 0; fi; sleep 0.1; done; ps -ef; exit 1"
    ))?;
    // Nobody else sees the password.
    let password = machine.sh("cd /proc/$(pgrep --uid 65533 | head -1); for account in asterisk nobody postgres; do
             if runuser -u $account -- cat environ; then echo $account; exit 1; fi; done 2>/dev/null
         tr '\\0' '\\n' <environ | sed -n 's/^PGPASSWORD=//p'")?;
    ensure!(password.trim().len() == 44, "{password}");
    machine.sh(&format!("if ps -eo args | grep -v grep | grep -F '{}'; then exit 1; fi", password.trim()))?;
    machine.sh("kill -KILL $(cat /run/xivo-upgrade.lock)")?;
    // Neither the program nor what the server does for it lives on, although the lock is held.
    machine.sh(&format!(
        "for try in $(seq 100); do if {sessions} | grep -q 0 && ! pgrep --uid 65533; then exit 0; fi; sleep 0.1; done; ps -ef; exit 1"
    ))?;
    let left = ask(
        machine,
        "postgres",
        "SELECT rolsuper, rolvaliduntil < now() + interval '5 minutes' FROM pg_authid WHERE rolname = 'xivo_upgrade_session'",
    )?;
    ensure!(left == "f|t\n", "{left}");
    machine.sh("systemctl stop attack")?;
    ask(
        machine,
        "postgres",
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'asterisk'",
    )?;
    world.upgrade(&["--dry-run"]).exits(0)?;
    let now = ask(machine, "postgres", ROLES)?;
    ensure!(now == roles, "{roles}became\n{now}");
    let log = machine.sh(&format!(
        "grep -q SCRAM-SHA-256 /var/log/postgresql/*; journalctl >/root/journal
         grep -F '{}' /root/journal /var/log/postgresql/* /var/log/xivo-upgrade* || :",
        password.trim()
    ))?;
    ensure!(log.is_empty(), "{log}");
    Ok(())
}

/// The properties of the database, whatever its identifier.
const PROPERTIES: &str = "SELECT datacl::text, datconnlimit, shobj_description(d.oid, 'pg_database'), pg_encoding_to_char(encoding), datcollate, datctype, \
    datallowconn, pg_get_userbyid(datdba), (SELECT string_agg(setrole::regrole::text || setconfig::text, ' ' ORDER BY 1) FROM pg_db_role_setting WHERE setdatabase = d.oid) \
    FROM pg_database d WHERE datname = 'asterisk'";

fn restored_properties(debian: Debian) -> Result<()> {
    let more = "extensions = [\"dblink\"]\n";
    let fails =
        "ALTER DATABASE asterisk SET work_mem = 7777;\nALTER DATABASE asterisk RESET search_path;\nSELECT 1/0;\n";
    let world = exchange(
        debian,
        &upgrader(
            more,
            &[("001-first.sql", "ALTER DATABASE asterisk SET work_mem = 6666;\n"), ("002-fails.sql", fails)],
        )?,
    )?;
    let machine = &world.machine;
    prepare(machine)?;
    machine.sh(
        "runuser -u postgres -- psql -q --set=ON_ERROR_STOP=1 --dbname=asterisk --command='CREATE EXTENSION dblink' --command='CREATE ROLE reader' \
             --command='REVOKE ALL ON DATABASE asterisk FROM public' --command='GRANT CONNECT ON DATABASE asterisk TO reader WITH GRANT OPTION' \
             --command='ALTER DATABASE asterisk SET log_min_duration_statement = 9999' --command='ALTER ROLE reader IN DATABASE asterisk SET work_mem = 4444'",
    )?;
    as_owner(
        machine,
        "CREATE SCHEMA \"a, b\"; ALTER DATABASE asterisk SET search_path = \"a, b\", public, '$user';
         ALTER DATABASE asterisk SET application_name = E'it''s \\\\ a \"name\"'; ALTER DATABASE asterisk SET work_mem = 5555;
         ALTER DATABASE asterisk CONNECTION LIMIT 55; COMMENT ON DATABASE asterisk IS 'The product''s';
         CREATE EXTENSION citext SCHEMA public; CREATE TABLE public.names (name public.citext)",
    )?;
    let before = ask(machine, "postgres", PROPERTIES)?;
    let content = harness::machines::database::dump(machine)?;
    let transcript = world.upgrade(&["--yes"]).exits(4)?;
    let after = ask(machine, "postgres", PROPERTIES)?;
    ensure!(before == after, "{before}became\n{after}{transcript}");
    let now = harness::machines::database::dump(machine)?;
    ensure!(now == content, "{content}\nbecame\n{now}");
    let last =
        ask(machine, "postgres", "SELECT datname, datallowconn FROM pg_database WHERE datname LIKE 'asterisk_%'")?;
    ensure!(last.lines().count() == 1 && last.ends_with("|t\n"), "{last}");

    // What the owner can neither save nor restore is reported before anything is changed.
    let admin =
        |sql: &str| machine.sh(&format!("runuser -u postgres -- psql -q --dbname=asterisk --command=\"{sql}\""));
    for (breakage, repair, said) in [
        (
            "CREATE TABLE public.of_admin ()",
            "DROP TABLE public.of_admin",
            "cannot save and restore this in the database asterisk: table public.of_admin",
        ),
        (
            "CREATE EXTENSION file_fdw",
            "DROP EXTENSION file_fdw",
            "cannot save and restore this in the database asterisk: extension file_fdw",
        ),
        (
            "ALTER DATABASE asterisk OWNER TO reader",
            "ALTER DATABASE asterisk OWNER TO asterisk",
            "the role asterisk does not own the database asterisk",
        ),
    ] {
        admin(breakage)?;
        let transcript = world.upgrade(&["--yes"]).exits(1)?;
        ensure!(transcript.screen.contains(said), "{transcript}");
        admin(repair)?;
    }
    machine.sh("sed -i 's/^host.*127.0.0.1.*/host all asterisk 127.0.0.1\\/32 scram-sha-256/' /etc/postgresql/*/main/pg_hba.conf; systemctl reload postgresql")?;
    let shut_out = world.upgrade(&["--yes"]).exits(1)?;
    ensure!(shut_out.screen.contains("`host asterisk xivo_upgrade_session 127.0.0.1/32 scram-sha-256`"), "{shut_out}");
    Ok(())
}
