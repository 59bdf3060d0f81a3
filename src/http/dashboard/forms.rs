//! Forms, which need no script: those that narrow a list, and those that are sent, each with the token of its session.

/// Fields that narrow a list, sent as a query.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) to: &'static str,
    pub(super) fields: Vec<Field>,
}

/// One of them: with choices a list, without a text.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) value: String,
    pub(super) choices: &'static [&'static str],
}

/// A form that is sent by POST.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) to: String,
    pub(super) button: &'static str,
    /// What is sent along, the session's token among it.
    pub(super) hidden: Vec<(&'static str, String)>,
    pub(super) inputs: Vec<Input>,
}

/// A field of a form.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    /// What is expected; stands beneath the label.
    pub(super) hint: &'static str,
    pub(super) value: String,
    pub(super) typing: Typing,
    /// Why what was typed cannot be taken.
    pub(super) fault: Option<String>,
}

/// How a field is typed.
#[derive(Debug)]
pub(super) enum Typing {
    /// A line of at most so many characters.
    Line(usize),
    /// The name of whoever signs in.
    Who(usize),
    /// A line that nobody shall read over a shoulder.
    Secret(&'static str),
    /// Several lines.
    Long(usize),
    /// One of some words, each with what it means.
    Choice(&'static [(&'static str, &'static str)]),
}

impl Form {
    pub(super) fn new(to: impl Into<String>, button: &'static str) -> Self {
        Self { to: to.into(), button, hidden: Vec::new(), inputs: Vec::new() }
    }

    pub(super) fn hidden(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.hidden.push((name, value.into()));
        self
    }

    pub(super) fn input(
        mut self,
        name: &'static str,
        label: &'static str,
        typing: Typing,
        value: &str,
    ) -> Self {
        self.inputs.push(Input { name, label, hint: "", value: value.to_owned(), typing, fault: None });
        self
    }

    /// Says more of the field that was added last.
    pub(super) fn hint(mut self, hint: &'static str) -> Self {
        if let Some(last) = self.inputs.last_mut() {
            last.hint = hint;
        }
        self
    }

    /// Says what is wrong with a field.
    pub(super) fn fault(mut self, name: &str, fault: &str) -> Self {
        if let Some(input) = self.inputs.iter_mut().find(|input| input.name == name) {
            input.fault = Some(fault.to_owned());
        }
        self
    }
}
