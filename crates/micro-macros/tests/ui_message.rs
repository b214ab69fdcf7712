//! What `#[derive(Message)]` says about a type that is no message.

#[test]
fn problems_are_told_where_they_are() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/message/*.rs");
}
