//! Runs the Python tests of the shipped hooks: `hooks/tests/`.

use std::ffi::OsStr;
use std::path::Path;

use harness::command::run;
use harness::data::tree;

#[test]
fn the_hooks_do_what_they_say() {
    let tests = tree("hooks/tests");
    let arguments = ["-B", "-m", "unittest", "discover", "-s"].map(OsStr::new);
    let result = run(Path::new("python3"), arguments.into_iter().chain([tests.as_os_str()]));
    assert!(result.is_ok(), "{result:?}. If there is no python3 on this host: apt-get install python3");
}
