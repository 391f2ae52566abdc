//! Attacks by the owner of the database that last: on the rollback, on what is left on the server, on memory and on time.
//! Those with a rollback come first: the packages are upgraded once.

use super::{Attack, DEFAULT, FAILS};

/// Waits until the migration has begun, with the trigger of [`SIGNAL`].
macro_rules! begun {
    () => {
        "until test \"$(q \"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' LIMIT 1\")\" = 1; do sleep 0.05; done\n"
    };
}

/// Tells the account's program that the migration has begun.
const SIGNAL: &str = "CREATE FUNCTION public.signal() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_lock(42); PERFORM pg_sleep(2); RETURN NULL; END';
    CREATE TRIGGER signal BEFORE UPDATE ON calls FOR EACH STATEMENT EXECUTE FUNCTION public.signal()";

/// An upgrade whose migration fails, so that it is rolled back.
const ROLLED_BACK: Attack = Attack { arguments: "--yes", migration: FAILS, exits: &[4], ..DEFAULT };

pub(super) const ATTACKS: &[Attack] = &[
    Attack {
        name: "the comment of the database is longer than an argument of a program can be",
        sql: "DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE asterisk IS %L', repeat('x', 200000)); END $$",
        ..ROLLED_BACK
    },
    Attack {
        name: "the comment of the database fills the memory",
        sql: "DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE asterisk IS %L', repeat('x', 200000000)); END $$",
        exits: &[0, 1, 4],
        ..ROLLED_BACK
    },
    Attack {
        name: "a setting of the database names a tablespace that does not exist",
        sql: "ALTER DATABASE asterisk SET temp_tablespaces = 'nowhere'",
        ..ROLLED_BACK
    },
    Attack {
        name: "a setting of the database is good only for a session like that of the owner",
        sql: "SET default_transaction_isolation = 'serializable';
              ALTER DATABASE asterisk SET transaction_isolation = 'serializable'",
        ..ROLLED_BACK
    },
    Attack {
        name: "the session role has a privilege on the database while it is saved",
        sql: SIGNAL,
        during: r#"q "DO \$\$ BEGIN LOOP BEGIN GRANT CONNECT ON DATABASE asterisk TO xivo_upgrade_session; EXCEPTION WHEN OTHERS THEN NULL; END;
                   COMMIT; EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory'); PERFORM pg_sleep(0.005); END LOOP; END \$\$""#,
        tried: "grep -q xivo_upgrade_session /var/lib/xivo-upgrade/dumps/*.sql",
        ..ROLLED_BACK
    },
    Attack {
        name: "the new database becomes a template, and its restore fails once",
        sql: "CREATE FUNCTION public.fails_once() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                  IF current_database() = 'asterisk' THEN RETURN true; END IF;
                  PERFORM pg_sleep(2);
                  RETURN NOT (SELECT datistemplate FROM pg_database WHERE datname = current_database()); END $$;
              CREATE TABLE public.one (n int CHECK (public.fails_once()));
              INSERT INTO public.one VALUES (1)",
        during: r#"q "DO \$\$ DECLARE name text; BEGIN LOOP
                       FOR name IN SELECT datname FROM pg_database WHERE datname ~ '^asterisk_.*_new' AND pg_get_userbyid(datdba) = 'asterisk' LOOP
                           BEGIN EXECUTE format('ALTER DATABASE %I IS_TEMPLATE true', name); EXCEPTION WHEN OTHERS THEN NULL; END;
                       END LOOP; COMMIT; PERFORM pg_sleep(0.02); END LOOP; END \$\$""#,
        tried: "runuser -u postgres -- psql -XAtc \"SELECT datname FROM pg_database WHERE datistemplate\" | grep asterisk",
        exits: &[4, 5],
        again: "rollback --yes",
        again_exits: &[0, 4],
        ..ROLLED_BACK
    },
    Attack {
        name: "the owner drops its database when the migration has begun",
        sql: SIGNAL,
        during: concat!(begun!(), "until q 'DROP DATABASE asterisk'; do sleep 0.02; done; touch /tmp/tried"),
        tried: "test -e /tmp/tried",
        ..ROLLED_BACK
    },
    Attack {
        name: "a session in another database holds a lock on the database during the rollback",
        sql: SIGNAL,
        during: concat!(
            begun!(),
            "q 'BEGIN; ALTER DATABASE asterisk SET work_mem = 5555; ALTER DATABASE asterisk CONNECTION LIMIT 50; SELECT pg_sleep(100000)' &
            until test \"$(q \"SELECT 1 FROM pg_stat_activity WHERE query LIKE 'BEGIN; ALTER%' AND wait_event = 'PgSleep'\")\" = 1; do sleep 0.1; done; \
            touch /tmp/tried; wait"
        ),
        tried: "test -e /tmp/tried",
        again: "rollback --yes",
        again_exits: &[0, 1, 4],
        ..ROLLED_BACK
    },
    Attack {
        name: "sessions in another database take all connections during the rollback",
        sql: SIGNAL,
        during: concat!(
            begun!(),
            "for n in $(seq 110); do q 'SELECT pg_sleep(100000)' & done; touch /tmp/tried; wait"
        ),
        tried: "test -e /tmp/tried",
        again: "rollback --yes",
        again_exits: &[0, 1, 4],
        ..ROLLED_BACK
    },
    Attack {
        name: "another role opens the new database, which lets it in although the database does not",
        sql: "REVOKE ALL ON DATABASE asterisk FROM public;
              CREATE FUNCTION public.secret() RETURNS text LANGUAGE sql SECURITY DEFINER AS $$ SELECT min(caller) FROM public.calls $$;
              CREATE FUNCTION public.sleeps() RETURNS bool LANGUAGE sql AS
                  $$ SELECT current_database() = 'asterisk' OR pg_sleep(2)::text = '' $$;
              CREATE TABLE public.one (n int CHECK (public.sleeps()));
              INSERT INTO public.one VALUES (1)",
        account: "nobody",
        during: r#"psql -XAtqw --dbname=asterisk --command='SELECT' 2>/dev/null || touch /tmp/tried
                   while :; do
                       name=$(q "SELECT datname FROM pg_database WHERE datname ~ '^asterisk_.*_new'")
                       test -z "$name" || psql -XAtqw --dbname="$name" --command='SELECT public.secret()' 2>/dev/null | grep agent >/tmp/read || rm -f /tmp/read
                       test ! -s /tmp/read || exit
                       sleep 0.02
                   done"#,
        tried: "test -e /tmp/tried",
        holds: "test ! -s /tmp/read",
        ..ROLLED_BACK
    },
    Attack {
        name: "a constraint fails when the dump is restored",
        sql: "CREATE FUNCTION public.is_old() RETURNS bool LANGUAGE sql AS $$ SELECT current_database() = 'asterisk' $$;
              ALTER TABLE calls ADD CHECK (public.is_old())",
        exits: &[5],
        again: "rollback --yes",
        again_exits: &[5],
        ..ROLLED_BACK
    },
    Attack {
        name: "a trigger of a migration warns all the time",
        sql: "CREATE FUNCTION public.warns() RETURNS trigger LANGUAGE plpgsql AS
                  $$ BEGIN FOR n IN 1..300000 LOOP RAISE WARNING '%', repeat('x', 1000); END LOOP; RETURN NULL; END $$;
              CREATE TRIGGER warns BEFORE UPDATE ON calls FOR EACH STATEMENT EXECUTE FUNCTION public.warns()",
        exits: &[0, 4],
        ..ROLLED_BACK
    },
    Attack {
        name: "the records warn all the time",
        sql: "CREATE FUNCTION public.warns() RETURNS text LANGUAGE plpgsql AS
                  $$ BEGIN FOR n IN 1..400 LOOP RAISE WARNING '%', repeat('x', 1000000); END LOOP; RETURN 'x'; END $$;
              CREATE VIEW xivo_upgrade.migrations AS SELECT 'x' AS name, NULL::text AS checksum WHERE public.warns() = ''",
        exits: &[0, 1],
        ..DEFAULT
    },
    Attack {
        name: "the records are wide",
        sql: "CREATE VIEW xivo_upgrade.migrations AS SELECT repeat(U&'\\+01F600', 200) AS name, repeat(U&'\\+01F600', 200) AS checksum
              FROM generate_series(1, 100000)",
        exits: &[0, 1],
        ..DEFAULT
    },
    Attack {
        name: "the settings of the database end sessions",
        sql: "ALTER DATABASE asterisk SET idle_session_timeout = '1ms'",
        ..DEFAULT
    },
    Attack {
        name: "the settings of the database name a library that does not exist",
        sql: "ALTER DATABASE asterisk SET local_preload_libraries = 'nowhere'",
        ..DEFAULT
    },
    Attack {
        name: "the settings of the database end transactions",
        sql: "DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN
                  ALTER DATABASE asterisk SET transaction_timeout = '1ms'; END IF; END $$",
        ..DEFAULT
    },
    Attack {
        name: "the session role has a privilege in another database",
        during: r#"q "SELECT lo_create(4242)" >/dev/null
                   q "DO \$\$ BEGIN LOOP BEGIN GRANT SELECT ON LARGE OBJECT 4242 TO xivo_upgrade_session; EXCEPTION WHEN OTHERS THEN NULL; END;
                   COMMIT; PERFORM pg_sleep(0.005); END LOOP; END \$\$""#,
        again: "--dry-run",
        exits: &[0, 1],
        ..DEFAULT
    },
    Attack {
        name: "the owner becomes a member of the session role",
        // Before PostgreSQL 15, a session could give away the membership in its own role.
        sql: "GRANT ALL ON SCHEMA public TO public;
              CREATE FUNCTION public.joins() RETURNS trigger LANGUAGE plpgsql AS $$
              DECLARE is_member bool := true;
              BEGIN
                  SET ROLE NONE;
                  CREATE TABLE public.owned ();
                  PERFORM pg_advisory_lock(42);
                  FOR n IN 1..250 LOOP
                      EXECUTE 'SELECT EXISTS (SELECT FROM pg_auth_members WHERE member = (SELECT oid FROM pg_roles WHERE rolname = session_user))' INTO is_member;
                      EXIT WHEN NOT is_member;
                      PERFORM pg_sleep(0.02);
                  END LOOP;
                  BEGIN GRANT xivo_upgrade_session TO asterisk WITH ADMIN OPTION; EXCEPTION WHEN OTHERS THEN RAISE WARNING '%', SQLERRM; END;
                  RETURN NULL;
              END $$;
              CREATE CONSTRAINT TRIGGER joins AFTER UPDATE ON calls DEFERRABLE INITIALLY DEFERRED
              FOR EACH ROW WHEN (old.id = 1) EXECUTE FUNCTION public.joins()",
        during: concat!(begun!(), "touch /tmp/tried; q 'REVOKE asterisk FROM xivo_upgrade_session'"),
        tried: "test -e /tmp/tried",
        arguments: "--yes",
        exits: &[0, 4, 5, 6],
        again: "--dry-run",
        ..DEFAULT
    },
];
