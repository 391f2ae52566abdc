use std::io::Read as _;
use std::time::Instant;

use super::*;

fn sh(script: &str) -> Program {
    Program::new("sh").args(["-c", script])
}

fn lines_of(program: Program) -> (Vec<String>, Result<()>) {
    let mut lines = Vec::new();
    let result = program.lines(&mut |line| lines.push(line.to_owned()));
    (lines, result)
}

#[test]
fn lines_come_in_the_order_they_were_written_whatever_the_stream() {
    let (lines, result) = lines_of(sh("echo one; echo two >&2; printf three"));
    assert_eq!(lines, ["one", "two", "three"]);
    assert!(result.is_ok());
}

#[test]
fn a_failure_names_program_arguments_status_and_last_words() {
    let (_, result) = lines_of(sh("echo first; echo broken >&2; exit 3"));
    let error = format!("{:#}", result.expect_err("exit 3 is a failure"));
    assert_eq!(error, "sh -c echo first; echo broken >&2; exit 3 failed (exit status: 3): first / broken");
}

#[test]
fn what_is_printed_into_a_file_is_not_mixed_with_complaints() {
    let (mut file, writer) = (tempfile::tempfile().expect("a file"), |file: &File| file.try_clone().expect("a file"));
    sh("echo warning >&2; echo dump").into_file(writer(&file)).expect("it exits with 0");
    let error = sh("echo more; echo full >&2; exit 1").into_file(writer(&file)).expect_err("exit 1 is a failure");
    assert!(error.to_string().ends_with("failed (exit status: 1): full"), "{error}");
    let mut text = String::new();
    std::io::Seek::rewind(&mut file).expect("rewound");
    file.read_to_string(&mut text).expect("readable");
    assert_eq!(text, "dump\nmore\n");
}

#[test]
fn a_program_that_cannot_be_started_is_named_with_the_reason() {
    let errors = ["no-such-program", "/no/such/program", "/etc/passwd", "/etc/passwd/program"].map(|program| {
        let error = Program::new(program).output().expect_err("it cannot be started");
        format!("{error:#}")
    });
    assert_eq!(
        errors,
        [
            "no-such-program could not be started: No such file or directory (os error 2)",
            "/no/such/program could not be started: No such file or directory (os error 2)",
            "/etc/passwd could not be started: Permission denied (os error 13)",
            "/etc/passwd/program could not be started: Not a directory (os error 20)",
        ]
    );
}

#[test]
fn every_program_leads_a_group_and_has_no_terminal() {
    // pid, process group, session, terminal (proc(5)).
    let script = "read -r pid _ _ _ group session terminal _ </proc/self/stat; echo $pid $group $session $terminal";
    let check = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // A session of its own is needed only where this process has a terminal, as a test may or may not have.
        let in_own = |pid: &str, session: &str| pid == session || !has_terminal();
        assert!(matches!(fields[..], [pid, group, session, "0"] if pid == group && in_own(pid, session)), "{line}");
    };
    check(&sh(script).output().expect("it runs"));
    check(&lines_of(sh(script)).0[0]);
    let mut file = tempfile::tempfile().expect("a file");
    let null = File::open("/dev/null").expect("there");
    let mut child = sh(script).spawn(null, file.try_clone().expect("a file")).expect("it runs");
    assert!(child.wait().expect("it ends").success());
    let mut text = String::new();
    std::io::Seek::rewind(&mut file).expect("rewound");
    file.read_to_string(&mut text).expect("readable");
    check(&text);
    assert!(text.starts_with(&child.id().to_string()), "its pid is another: {text}");
}

#[test]
fn a_query_without_an_answer_is_ended_and_says_what_to_do() {
    let limit = Duration::from_millis(100);
    for result in [
        sh("sleep 300").time_limit(limit).output(),
        sh("sleep 300").time_limit(limit).stdout(),
        sh("sleep 300").time_limit(limit).into_file(tempfile::tempfile().expect("a file")).map(|()| String::new()),
    ] {
        let error = result.expect_err("there is no answer");
        assert!(error.downcast_ref::<Failed>().is_some_and(|failed| failed.timed_out), "{error:#}");
        assert_eq!(
            crate::exit::describe(&error),
            "error: a program does not answer: sh -c sleep 300 failed (killed after 100ms, its time limit)\n\
             What to do: Run it by hand to see what it waits for (a lock, a disk, a network), then start again."
        );
    }
    assert!(!sh("sleep 300").time_limit(limit).succeeds().expect("it runs"));
}

#[test]
fn a_file_that_grows_is_an_answer() {
    let file = tempfile::tempfile().expect("a file");
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 0.2; echo more; done";
    let dump = sh(script).time_limit(Duration::from_millis(900));
    dump.into_file(file.try_clone().expect("a file")).expect("it is not ended");
    assert_eq!(file.metadata().expect("there").len(), 40);
}

#[test]
fn a_background_child_that_keeps_the_output_open_does_not_hold_us_up() {
    let started = Instant::now();
    let (lines, result) = lines_of(sh("sleep 30 & echo gone"));
    assert_eq!(lines, ["gone"]);
    assert!(result.is_ok());
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_background_child_that_floods_the_output_does_not_hold_us_up() {
    let started = Instant::now();
    let (_, result) = lines_of(sh("timeout 30 yes & echo gone"));
    assert!(result.is_ok());
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn after_its_time_limit_the_whole_group_is_killed() {
    let (lines, result) = lines_of(sh("sleep 300 & echo $!; wait").time_limit(Duration::from_millis(100)));
    let error = format!("{:#}", result.expect_err("it takes too long"));
    assert!(error.contains("failed (killed after 100ms, its time limit)"), "{error}");
    // It may remain as a zombie until its new parent reaps it.
    let alive = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", lines[0])).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive() {
        assert!(Instant::now() < deadline, "the background process survived");
        std::thread::yield_now();
    }
}

#[test]
fn bytes_that_are_no_text_and_endless_lines_do_no_harm() {
    let (lines, result) = lines_of(sh(r"printf '\377\n'; head -c 200000 /dev/zero"));
    assert!(result.is_ok());
    assert_eq!(lines[0], "\u{fffd}");
    assert!(lines.len() > 2);
}

#[test]
fn the_environment_is_the_fixed_one() {
    let environment = Program::new("env").env("EXTRA", "1").output().expect("env runs");
    assert!(environment.contains("LC_ALL=C.UTF-8\n") && environment.contains("EXTRA=1\n"));
    assert!(!environment.contains("CARGO"), "the caller's environment leaks: {environment}");
}
