//! The command line, as far as it goes without being root on a machine with a product.

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;

fn programs() -> [Command; 2] {
    [cargo_bin_cmd!("xivo-upgrade"), cargo_bin_cmd!("real-xivo-upgrade")]
}

#[test]
fn both_programs_say_their_version_and_help() {
    for mut program in programs() {
        program.arg("--version").assert().success().stdout(format!("xivo-upgrade {}\n", env!("CARGO_PKG_VERSION")));
    }
    for mut program in programs() {
        let help = program.arg("-h").assert().success();
        let help = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
        assert!(help.contains("Usage: xivo-upgrade [OPTIONS]") && help.contains("--download-only"), "{help}");
    }
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    for arguments in [&["--frobnicate"][..], &["--dry-run", "--download-only"], &["now"], &["-f", "-f"]] {
        for mut program in programs() {
            let said = program.args(arguments).assert().code(2);
            let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
            assert!(said.starts_with("error: ") && said.contains("--help"), "{said}");
        }
    }
}
