//! What `#[micro::service]` says about traits, of which some are contracts.

#[test]
fn problems_are_told_where_they_are() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/service/*.rs");
    cases.pass("tests/ui/service_pass/*.rs");
}
