//! The day that chat templates are told: always the same one.

/// `strftime` of 26 July 2024, the day that Llama 3's template takes where it is told none.
pub(super) fn formatted(format: &str) -> String {
    let mut out = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        // `%-d` is a number without leading zeros.
        let short = code == Some('-');
        if short {
            code = chars.next();
        }
        let text = match code {
            Some('d') => "26",
            Some('m') if short => "7",
            Some('m') => "07",
            Some('Y') => "2024",
            Some('y') => "24",
            Some('b') => "Jul",
            Some('B') => "July",
            Some('a') => "Fri",
            Some('A') => "Friday",
            Some('j') => "208",
            Some('H' | 'M' | 'S') if short => "0",
            Some('H' | 'M' | 'S') => "00",
            Some('F') => "2024-07-26",
            Some('T') => "00:00:00",
            _ => "%",
        };
        out.push_str(text);
        if text == "%" {
            out.extend(code.filter(|code| *code != '%'));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::formatted;

    /// Python's `datetime(2024, 7, 26).strftime`.
    #[test]
    fn as_python_writes_it() {
        assert_eq!(formatted("%d %b %Y, %A %j"), "26 Jul 2024, Friday 208");
        assert_eq!(formatted("%Y-%m-%d %H:%M:%S 100%%"), "2024-07-26 00:00:00 100%");
        assert_eq!(formatted("%-m/%-d/%y %B %a"), "7/26/24 July Fri");
    }
}
