//! What `#[micro::service]` says about a trait that is no contract.

#[test]
fn problems_are_told_where_they_are() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/service/*.rs");
}
