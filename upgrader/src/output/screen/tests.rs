use super::*;
use crate::exit::Exit;
use crate::model::conffile::EditedConffile;
use crate::model::event::{InterruptedRun, RollbackPreview, Subscriber as _};
use crate::model::finding::Finding;
use crate::model::hook::{HookOutcome, Phase};
use crate::model::plan::{Change, Plan};
use crate::model::policy::ConffilePolicy;

fn seen(mut screen: Screen<Vec<u8>>, events: &[Event]) -> String {
    for event in events {
        screen.receive(event);
    }
    String::from_utf8(screen.writer).expect("text")
}

fn plain() -> Screen<Vec<u8>> {
    Screen::new(Vec::new(), Style::Plain)
}

fn shown(verbose: bool, events: &[Event]) -> String {
    seen(Screen { verbose, ..plain() }, events)
}

fn planned() -> Event {
    let own = vec!["asterisk".to_owned(), "xivo".to_owned()];
    let plan = Plan {
        installed: "1.2.1".to_owned(),
        candidate: "2:2023.1-rc1".to_owned(),
        changes: vec![
            Change::upgrade("asterisk", "1:13", "1:16"),
            Change::upgrade("xivo", "1.2.1", "2:2023.1-rc1"),
            Change::upgrade("libssl3", "3.0.1", "3.0.2"),
            Change::install("xivo-new", "1"),
            Change::remove("xivo-old", "0.9"),
        ],
        unfinished: vec!["half".to_owned()],
        kept_back: vec!["held".to_owned()],
        download: 12_345_678,
        disk: -4_500_000,
        migrations: vec!["003-a".to_owned(), "004-b".to_owned()],
        conffiles: vec![EditedConffile {
            path: "/etc/xivo/xivo.conf".into(),
            package: "xivo".to_owned(),
            deleted: false,
            policy: ConffilePolicy::Replace,
        }],
        restart: vec!["postgresql".to_owned(), "asterisk".to_owned()],
        ..Plan::default()
    };
    Event::Planned { product: "XiVO".to_owned(), own, plan: Box::new(plan) }
}

#[test]
fn a_plan_is_shown_in_groups() {
    insta::assert_snapshot!(shown(false, &[planned()]), @r#"

        XiVO installed version: 1.2.1
        XiVO candidate version: 2:2023.1-rc1

        XiVO packages to upgrade (2):
          asterisk  1:13 -> 1:16
          xivo      1.2.1 -> 2:2023.1-rc1

        System packages to upgrade (1):
          libssl3  3.0.1 -> 3.0.2

        New packages (1):
          xivo-new  1

        Packages to remove (1):
          xivo-old  0.9

        Installed but not configured, to be finished (1): half

        Not upgraded, held or kept back (1): held

        Database migrations (2): 003-a 004-b

        Configuration files that you edited (1); where a package brings another version it is installed, and yours kept as .dpkg-old:
          /etc/xivo/xivo.conf (xivo)

        Download: 12.3 MB; on disk: 4.5 MB less
        Services to restart, in this order: postgresql asterisk
        "#);
}

#[test]
fn failures_are_shown_among_successes() {
    let ended = |hook: &str, ended, milliseconds| Event::HookEnded {
        phase: Phase::PostUpgrade,
        hook: hook.to_owned(),
        ended,
        milliseconds,
    };
    insta::assert_snapshot!(shown(false, &[
            Event::Began(Step::PostUpgradeHooks),
            Event::HookSkipped(Phase::PostUpgrade, "README".to_owned(), "not executable".to_owned()),
            ended("10-a", HookOutcome::Done, 9999),
            ended("20-b", HookOutcome::Failed("(exit status: 1): no".to_owned()), 10),
            ended("30-c", HookOutcome::NotApplicable, 61_500),
            Event::Began(Step::Restart),
            Event::ServiceUp { service: "postgresql".to_owned(), outage: 7 },
            Event::ServiceDown {
                service: "asterisk".to_owned(),
                reason: "failed (exit-code)".to_owned(),
                log: vec!["no such module".to_owned()],
            },
            Event::ServiceSkipped("nginx".to_owned(), "masked".to_owned()),
            Event::OthersRestarting(vec!["cron.service".to_owned()]),
            Event::ServiceUp { service: "cron.service".to_owned(), outage: 7 },
            Event::ManagerReexecuted(Ok(())),
            Event::RestartRecommended(vec![("dbus.service".to_owned(), "all services talk through it".to_owned())]),
            Event::RebootRecommended(vec!["a newer kernel".to_owned()]),
            Event::Finished { exit: Exit::NeedsHuman, time: jiff::Timestamp::UNIX_EPOCH, message: "Look at it.".to_owned() },
        ]), @r#"
        Running post-upgrade hooks
          README: skipped, not executable
          10-a: ok
          20-b: FAILED (exit status: 1): no
          30-c: not applicable here (62 s)
        Restarting services
          postgresql               OK
          asterisk                 NOK  failed (exit-code)
              no such module
          nginx                    skipped: masked
        Restarting other services that still run replaced files
          cron.service             OK
          systemd                  OK, re-executed
        Restart recommended; these still run replaced files
          dbus.service             all services talk through it
        Reboot recommended
          a newer kernel

        Look at it.
        "#);
}

#[test]
fn a_migration_is_shown_from_the_dump_to_the_one_that_fails() {
    let directory = "/var/lib/acme-upgrade/dumps".to_owned();
    insta::assert_snapshot!(shown(false, &[
            Event::Began(Step::Migrate),
            Event::DatabaseSaving { database: "asterisk".to_owned(), directory },
            Event::DatabaseSaved { file: "/var/lib/acme-upgrade/dumps/a.dump".to_owned(), bytes: 1 },
            Event::Migrating("asterisk".to_owned()),
            Event::MigrationSkipped("README".to_owned(), "not a migration".to_owned()),
            Event::Migrated("003-a".to_owned(), Ok(())),
            Event::Migrated("004-b".to_owned(), Err("ERROR: no".to_owned())),
        ]), @r#"
        Saving the database asterisk to /var/lib/acme-upgrade/dumps
        Migrating the database asterisk
          README: skipped, not a migration
          003-a: ok
          004-b: FAILED
        "#);
}

fn interrupted(rolling_back: bool, can_roll_back: bool) -> Event {
    Event::Interrupted(InterruptedRun {
        product: "XiVO".to_owned(),
        from: "1.2.1".to_owned(),
        to: "1.2.2".to_owned(),
        step: Some(if rolling_back { Step::RollBack } else { Step::PreUpgradeHooks }),
        hook: (!rolling_back).then(|| "20-stop-monit".to_owned()),
        last: "2026-11-22T15:48:53.123Z".parse().expect("a time"),
        rolling_back,
        can_roll_back,
    })
}

#[test]
fn an_interrupted_run_is_shown_with_its_last_step_and_completed_steps_are_not_repeated() {
    insta::assert_snapshot!(shown(false, &[
            interrupted(false, true),
            Event::Began(Step::SaveRollbackData),
            Event::StepAlreadyDone(Step::SaveRollbackData),
            Event::Began(Step::PreUpgradeHooks),
            Event::HookAlreadyDone(Phase::PreUpgrade, "10-first".to_owned()),
            Event::Began(Step::Packages),
            Event::Retrying("error: dpkg: no\nWhat to do: fix it.".to_owned()),
            interrupted(false, false),
        ]), @r#"
        The upgrade of XiVO 1.2.1 to 1.2.2 was interrupted on 2026-11-22 at 15:48:53 UTC.
        It was at the step pre-upgrade hooks, in the hook 20-stop-monit.
        Running pre-upgrade hooks
          10-first: done already
        Upgrading packages
          dpkg: no
        Trying once more

        The upgrade of XiVO 1.2.1 to 1.2.2 was interrupted on 2026-11-22 at 15:48:53 UTC.
        It was at the step pre-upgrade hooks, in the hook 20-stop-monit.
        It cannot be rolled back: there is no rollback data of 1.2.1.
        "#);
}

#[test]
fn a_rollback_is_shown_from_the_question_to_the_end() {
    let back = |changed: usize, database: Option<&str>| {
        Event::RollbackPreview(RollbackPreview {
            product: "XiVO".to_owned(),
            from: Some("1.2.2".to_owned()),
            to: "1.2.1".to_owned(),
            since: "2026-11-22T15:48:53Z".parse().expect("a time"),
            changed_since: (1..=changed).map(|number| format!("/etc/{number}: content")).collect(),
            packages_since: vec!["curl".to_owned(); changed / 2],
            database: database.map(str::to_owned),
        })
    };
    insta::assert_snapshot!(shown(false, &[
            back(2, None),
            back(0, Some("asterisk")),
            Event::RollingBack { product: "XiVO".to_owned(), to: "1.2.1".to_owned() },
            Event::Detached { unit: Some("run.service".to_owned()), command: "xivo-upgrade".to_owned() },
            Event::Restored { changed: 312, removed: 4 },
            Event::DatabaseRestored { database: "asterisk".to_owned(), kept_as: Some("asterisk_20261122T154853Z".to_owned()) },
            Event::Began(Step::RestartOld),
            Event::ServiceUp { service: "postgresql".to_owned(), outage: 7 },
            interrupted(true, true),
        ]), @r#"
        XiVO installed version: 1.2.2
        XiVO version after the rollback: 1.2.1

        A rollback restores the packages, files and settings of before the upgrade.
        Databases and other data keep what was written since.

        Changed since the upgrade ended on 2026-11-22 at 15:48:53 UTC (2):
          /etc/1: content
          /etc/2: content

        Packages changed since, but not by the upgrade (1): curl
        Their files stay, but dpkg will record their state of before the upgrade: reinstall them after the rollback.


        XiVO installed version: 1.2.2
        XiVO version after the rollback: 1.2.1

        A rollback restores the packages, files and settings of before the upgrade.
        It also restores the database asterisk; its present state is kept as a copy.

        Rolling back to XiVO 1.2.1
        The rollback continues in the background; Ctrl-C only detaches. Reattach: xivo-upgrade attach
          312 paths restored, 4 paths of the upgrade removed
          database asterisk restored; its state before that is kept as asterisk_20261122T154853Z
        Restarting services
          postgresql               OK

        The rollback of XiVO 1.2.2 to 1.2.1 was interrupted on 2026-11-22 at 15:48:53 UTC.
        It was at the step roll back.
        "#);
    let long = shown(false, &[back(30, None)]);
    assert!(
        long.contains("/etc/10: content") && !long.contains("/etc/11") && long.contains("the log has all"),
        "{long}"
    );
}

#[test]
fn findings_are_shown_with_their_remedies() {
    let finding =
        |fatal, what: &str| Event::Found(Finding { fatal, what: what.to_owned(), remedy: "Fix it.".to_owned() });
    insta::assert_snapshot!(shown(false, &[finding(true, "the clock is wrong"), finding(false, "monit runs")]), @r#"
        Problem: the clock is wrong
          What to do: Fix it.
        Note: monit runs
          What to do: Fix it.
        "#);
}

#[test]
fn a_wait_names_the_process_and_counts_down() {
    let waiting = |seconds| Event::Waiting { who: "apt-get (pid 7)".to_owned(), seconds };
    insta::assert_snapshot!(shown(false, &[waiting(23), waiting(22), waiting(20), waiting(11), waiting(10)]), @r#"
        Waiting up to 23 s for apt-get (pid 7) to release the dpkg lock
        Waiting up to 20 s for apt-get (pid 7) to release the dpkg lock
        Waiting up to 10 s for apt-get (pid 7) to release the dpkg lock
        "#);
}

#[test]
fn on_a_terminal_a_bar_moves_and_the_next_line_takes_its_place() {
    let events = [
        Event::Began(Step::Packages),
        Event::Progress { percent: 50, what: "Unpacking asterisk (amd64)".to_owned() },
        Event::Progress { percent: 100, what: "Done".to_owned() },
        Event::Ended(Step::Packages),
        Event::ServiceUp { service: "asterisk".to_owned(), outage: 7 },
    ];
    let narrow = Style::Terminal { width: 40, colour: true };
    assert_eq!(
        seen(Screen::new(Vec::new(), narrow), &events).replace('\x1b', "^["),
        "Upgrading packages\n\r[##########          ]  50 %  Unpacking^[[K\r[####################] 100 %  Done^[[K\r^[[K  \
             asterisk                 ^[[32mOK^[[0m\n"
    );
    assert!(!seen(plain(), &events).contains('%'), "elsewhere there are no bars");
}

#[test]
fn the_bar_is_removed_before_an_error_follows_on_stderr() {
    let narrow = Style::Terminal { width: 40, colour: false };
    let mut screen = Screen::new(std::io::LineWriter::new(Vec::new()), narrow);
    screen.receive(&Event::Waiting { who: "apt".to_owned(), seconds: 1 });
    screen.receive(&Event::Failed("error".to_owned()));
    assert!(screen.writer.get_ref().ends_with(b"\r\x1b[K"));
}

#[test]
fn quiet_shows_only_problems_and_the_question() {
    let screen = |asks| Screen { quiet: true, asks, ..plain() };
    let events = [
        Event::Began(Step::Restart),
        Event::ServiceDown { service: "a".to_owned(), reason: "dead".to_owned(), log: Vec::new() },
    ];
    assert_eq!(seen(screen(true), &events), "  a                        NOK  dead\n");
    assert!(!seen(screen(true), &[planned()]).is_empty(), "a question needs its plan");
    assert_eq!(seen(screen(false), &[planned()]), "");
}

#[test]
fn the_output_of_programs_is_shown_when_asked_for() {
    let output = [Event::Output { source: "apt-get".to_owned(), line: "Hit:1".to_owned() }];
    assert_eq!(shown(false, &output), "");
    assert_eq!(shown(true, &output), "    apt-get: Hit:1\n");
}
