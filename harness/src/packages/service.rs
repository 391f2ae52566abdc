//! Services of synthetic releases, with the maintainer scripts that debhelper would write.

use crate::packages::package::Package;

/// A service's program: notifies systemd, writes its pid and version to a file, and sends its version to each client. Machines start it
/// often, and without any module it is up in 2 ms instead of 16. The numbers are Linux's `AF_UNIX`, `SOCK_STREAM` and `SOCK_DGRAM`; the
/// addresses are those of unix(7).
const PROGRAM: &str = include_str!("../../products/service/program.pl");

const UNIT: &str = include_str!("../../products/service/unit.service");

/// What `dh_installsystemd` adds to a postinst (debhelper's autoscripts postinst-systemd-enable and -restart).
const POSTINST: &str = include_str!("../../products/service/postinst.sh");

/// What it adds to a prerm (prerm-systemd-restart).
const PRERM: &str = include_str!("../../products/service/prerm.sh");

/// What it adds to a postrm (postrm-systemd and -reload-only).
const POSTRM: &str = include_str!("../../products/service/postrm.sh");

/// Gives a package a service, named after its unit or else after itself: program, unit, and the maintainer scripts that
/// debhelper would write. Scripts that the package has of its own run first. A program or unit of its own stays, with the
/// service's name and its version filled in for `@NAME@` and `@VERSION@`; a unit of its own runs a program of its own.
pub fn add_service(package: &mut Package) {
    let (name, version) = (package.unit.as_ref().unwrap_or(&package.name).clone(), package.version.clone());
    let filled = |text: &str| text.replace("@NAME@", &name).replace("@VERSION@", &version);
    let program = filled(PROGRAM);
    let unit = filled(UNIT);
    for (name, script) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
        package.script_mut(name).push_str(&filled(script));
    }
    for file in &mut package.files {
        if let Ok(text) = str::from_utf8(&file.content) {
            file.content = filled(text).into_bytes();
        }
    }
    let (program_path, unit_path) = (format!("/usr/libexec/{name}"), format!("/usr/lib/systemd/system/{name}.service"));
    let has = |path: &str| package.files.iter().any(|file| file.path == path);
    let (has_program, has_unit) = (has(&program_path), has(&unit_path));
    if !has_program && !has_unit {
        *package = std::mem::take(package).file(&program_path, program, 0o755);
    }
    if !has_unit {
        *package = std::mem::take(package).file(&unit_path, unit, 0o644);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_and_a_unit_of_its_own_stay() {
        let own = "#!/bin/sh\necho @NAME@ @VERSION@\n";
        let paths = |package: &Package| -> Vec<String> { package.files.iter().map(|file| file.path.clone()).collect() };
        let mut program = Package::new("x", "1").file("/usr/libexec/x", own, 0o755);
        add_service(&mut program);
        assert_eq!(paths(&program), ["/usr/libexec/x", "/usr/lib/systemd/system/x.service"]);
        assert_eq!(program.files[0].content, b"#!/bin/sh\necho x 1\n");
        let mut unit = Package::new("x", "1").file("/usr/lib/systemd/system/x.service", "[Service]\n", 0o644);
        add_service(&mut unit);
        assert_eq!(paths(&unit), ["/usr/lib/systemd/system/x.service"]);
        assert_eq!(unit.files[0].content, b"[Service]\n");
    }

    #[test]
    fn a_unit_may_have_another_name_than_its_package() {
        let mut package = Package::new("x", "1");
        package.unit = Some("y".to_owned());
        add_service(&mut package);
        assert_eq!(package.name, "x");
        assert_eq!(package.files[1].path, "/usr/lib/systemd/system/y.service");
        assert!(str::from_utf8(&package.files[1].content).unwrap().contains("ExecStart=/usr/libexec/y\n"));
        assert!(package.scripts["prerm"].contains("deb-systemd-invoke stop 'y.service'"));
    }
}
