use std::collections::BTreeSet;

use documented::{Block, Page};
use proptest::prelude::*;

use super::*;
use crate::model::policy::ConffilePolicy;

const GOOD: &str = r#"name = "XiVO"
version-package = "xivo"
[services]
order = ["postgresql", "asterisk"]
restart = "stop-then-start"
settle = "0s"
[services.ready]
asterisk = { command = ["asterisk", "-rx", "core waitfullybooted"], timeout = "90s" }
[packages]
protected = ["xivo"]
conffiles = "keep"
[database]
kind = "postgresql"
name = "asterisk"
owner = "xivo-db"
migrate = ["xivo-dbms", "upgrade"]
pending = ["xivo-dbms", "pending"]
[pair]
role = ["xivo-node", "role"]
peer-version = ["xivo-node", "peer"]
"#;

#[test]
fn a_whole_product_is_read() {
    let product = Product::parse(GOOD).expect("it is good");
    assert_eq!(product.services.order, ["postgresql", "asterisk"]);
    assert_eq!(product.services.restart, RestartPolicy::StopThenStart);
    assert_eq!(product.services.ready("asterisk").expect("declared").timeout, Duration::from_secs(90));
    assert!(product.services.ready("postgresql").is_none());
    assert_eq!(product.services.settle, Duration::ZERO);
    assert_eq!(product.packages.conffiles, ConffilePolicy::Keep);
    let database = product.database.expect("declared");
    assert_eq!((database.name.as_str(), database.owner.as_str()), ("asterisk", "xivo-db"));
    assert_eq!(database.migrate.expect("declared"), ["xivo-dbms", "upgrade"]);
    assert_eq!(database.pending.expect("declared"), ["xivo-dbms", "pending"]);
    let pair = product.pair.expect("declared");
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!((pair.role, pair.peer_version), (words("xivo-node role"), words("xivo-node peer")));
    assert_eq!(pair.timeout, Duration::from_secs(10));
}

/// The one line that is said about `GOOD` after replacing `from` with `to`.
fn complaint(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the text");
    let (line, message) = Product::parse(&GOOD.replacen(from, to, 1)).expect_err("it is bad");
    assert!(!message.contains('\n'), "{message}");
    format!("{line}: {message}")
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_key() {
    insta::assert_snapshot!([
        complaint("restart =", "restrat ="),
        complaint("protected = [\"xivo\"]", "protect = [\"xivo\"]"),
        complaint("version-package = \"xivo\"\n", ""),
        complaint("[services]\norder = [\"postgresql\", \"asterisk\"]\nrestart = \"stop-then-start\"\nsettle = \"0s\"\n", ""),
        complaint("[\"postgresql\", \"asterisk\"]", "[]"),
        complaint("\"postgresql\"", "\"asterisk\""),
        complaint("\"postgresql\"", "\"--now\""),
        complaint("\"stop-then-start\"", "\"sometimes\""),
        complaint("asterisk = {", "nginx = {"),
        complaint("\"90s\"", "\"soon\""),
        complaint("\"90s\"", "\"9000000000000000000s\""),
        complaint("\"90s\"", "\"0s\""),
        complaint("\"0s\"", "\"-1s\""),
        complaint("[packages]", "[packages"),
        complaint("\"postgresql\"\nname", "\"oracle\"\nname"),
        complaint("owner = \"xivo-db\"\n", ""),
        complaint("\"xivo-db\"", "\"--echo-all\""),
        complaint("name = \"asterisk\"", "name = \"host=other\""),
        complaint("[\"xivo-dbms\", \"upgrade\"]", "[]"),
        complaint("migrate = [\"xivo-dbms\", \"upgrade\"]\n", ""),
        complaint("pending =", "pendings ="),
        complaint("[\"xivo-node\", \"role\"]", "[\"\"]"),
        complaint("peer-version = [\"xivo-node\", \"peer\"]\n", ""),
        complaint("peer-version =", "timeout = \"0s\"\npeer-version ="),
    ]
    .join("\n"), @r#"
    5: unknown field `restrat`, expected one of `order`, `restart`, `settle`, `ready`
    10: unknown field `protect`, expected one of `protected`, `conffiles`, `validated`
    1: missing field `version-package`
    3: missing field `order`
    4: order: names no service
    4: order: asterisk is named twice
    4: order: "--now" is not the name of a unit
    5: restart: unknown variant `sometimes`, expected `rolling` or `stop-then-start`
    8: services.ready.nginx: this service is not in services.order
    8: asterisk: "soon" is not a span of time such as "60s" or "2m", at most a day
    8: asterisk: "9000000000000000000s" is not a span of time such as "60s" or "2m", at most a day
    8: asterisk: "0s" is not a span of time such as "60s" or "2m", at most a day
    6: settle: "-1s" is not a span of time such as "60s" or "2m", at most a day
    9: unclosed table, expected `]`
    13: kind: unknown variant `oracle`, expected `postgresql`
    12: missing field `owner`
    15: owner: "--echo-all" is not a name of letters, digits, _ and -
    14: name: "host=other" is not a name of letters, digits, _ and -
    16: migrate: names no program
    12: database.pending: there is no database.migrate
    17: unknown field `pendings`, expected one of `kind`, `name`, `owner`, `extensions`, `migrate`, `pending`
    19: role: names no program
    18: missing field `peer-version`
    20: timeout: "0s" is not a span of time such as "60s" or "2m", at most a day
    "#);
}

/// What is expected where a table of product.toml has something that is not known.
fn expected_in<T: serde::de::DeserializeOwned>(text: &str) -> BTreeSet<String> {
    let (_, message) = strict::parse::<T>(text).err().expect("it is not known");
    documented::expected(&message)
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let page = Page::read("docs/reference/product.md");
    let unknown = "unknown = 1";
    page.section("## The product").has_keys(expected_in::<Product>(unknown));
    page.section("### Ready").has_keys(expected_in::<Ready>(unknown));
    let services = expected_in::<Services>(unknown);
    page.section("## Services").has_keys(services.into_iter().chain(expected_in::<Ready>(unknown)));
    page.section("## Packages").has_keys(expected_in::<Packages>(unknown));
    page.section("## Database").has_keys(expected_in::<Database>(unknown));
    page.section("## Rollback").has_keys(expected_in::<Rollback>(unknown));
    page.section("## Pair").has_keys(expected_in::<Pair>(unknown));
}

#[test]
fn what_is_without_a_key_and_what_can_be_there_is_as_documented() {
    let page = Page::read("docs/reference/product.md");
    let (services, packages) = (page.section("## Services"), page.section("## Packages"));
    let said = |key| format!("{key} = {}\n", services.beside(key));
    let services_as_said =
        strict::parse::<Services>(&format!("order = [\"a\"]\n{}{}", said("restart"), said("settle")));
    let without = strict::parse::<Services>("order = [\"a\"]").expect("good");
    assert_eq!(format!("{:?}", services_as_said.expect("good")), format!("{without:?}"));
    let ready = |rest: &str| format!("{:?}", strict::parse::<Ready>(&format!("command = [\"a\"]\n{rest}")));
    assert_eq!(ready(&said("timeout")), ready(""));
    let rules =
        ["protected", "conffiles", "validated"].map(|key| format!("{key} = {}\n", packages.beside(key))).concat();
    assert_eq!(format!("{:?}", strict::parse::<Packages>(&rules)), format!("{:?}", strict::parse::<Packages>("")));
    let pair =
        |rest: &str| format!("{:?}", strict::parse::<Pair>(&format!("role = [\"a\"]\npeer-version = [\"b\"]\n{rest}")));
    assert_eq!(pair(&format!("timeout = {}", page.section("## Pair").beside("timeout"))), pair(""));
    for (section, variants) in [
        (&services, expected_in::<Services>("order = [\"a\"]\nrestart = \"unknown\"")),
        (&packages, expected_in::<Packages>("conffiles = \"unknown\"")),
        (&packages, expected_in::<Packages>("validated = \"unknown\"")),
    ] {
        let quoted = section.quoted();
        assert!(variants.iter().all(|variant| quoted.contains(&format!("\"{variant}\""))), "{variants:?}");
    }
}

#[test]
fn the_examples_of_the_documentation_are_good() {
    let mut examples = Page::read("docs/reference/product.md").examples("product.toml");
    let part = |example: Block| Block { text: format!("{EVERYTHING_ELSE}{}", example.text), ..example };
    examples.extend(Page::read("docs/reference/migrations.md").examples("[database]").into_iter().map(part));
    for example in examples {
        let read = Product::parse(&example.text);
        assert!(read.is_ok(), "line {}: {read:?}", example.line);
    }
}

/// What a product.toml needs in any case.
const EVERYTHING_ELSE: &str = "name = \"A\"\nversion-package = \"a\"\n[services]\norder = [\"a\"]\n";

/// What is wrong with a text is said in one line, with the number of a line that is there.
fn complains_well(text: &str) -> Result<(), TestCaseError> {
    if let Err((line, message)) = Product::parse(text) {
        // What is never closed is missing at the end of the file, which editors show as an empty line.
        prop_assert!((1..=text.split('\n').count()).contains(&line), "line {line} of {text:?}");
        prop_assert!(!message.is_empty() && !message.contains('\n'), "{message:?} of {text:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in "(?s).{0,200}", key in "(name|order|\\[services\\]|\\[services.ready.a\\]) ?=? ?") {
        complains_well(&text)?;
        complains_well(&format!("{GOOD}{text}"))?;
        complains_well(&format!("{key}{text}\n{GOOD}"))?;
    }

    #[test]
    fn a_good_text_may_be_broken_anywhere(
        from in 0..GOOD.len(),
        length in 0..40_usize,
        new in prop_oneof![Just(String::new()), "(?s).{1,6}", "[]\\[{}\"'=#.\n0-9]{1,4}"],
    ) {
        // The text is ASCII: every offset is that of a character.
        let to = (from + length).min(GOOD.len());
        complains_well(&format!("{}{new}{}", &GOOD[..from], &GOOD[to..]))?;
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line(key in "[a-z]{3,8}x", line in 0..GOOD.lines().count()) {
        let mut lines: Vec<&str> = GOOD.lines().collect();
        let unknown = format!("{key} = 1");
        lines.insert(line, &unknown);
        let (at, message) = Product::parse(&lines.join("\n")).expect_err("the key is unknown");
        prop_assert!(message.contains(&key) || message.contains("invalid type"), "{message}");
        prop_assert_eq!(at, line + 1);
    }
}
