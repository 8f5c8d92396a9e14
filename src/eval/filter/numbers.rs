//! `number_regex`: a number in digits, or else in English words (`NumberParseRegexFilter` of lm-eval's
//! BIG-Bench Hard, which reads words with the package word2number).

use super::Extract;
use crate::error::Result;
use crate::eval::pattern::Pattern;

/// Takes the match of a pattern, or else a number in words.
#[derive(Clone, Debug)]
pub struct NumberRegex {
    /// The pattern that is tried first.
    pub extract: Extract,
}

impl NumberRegex {
    pub(super) fn find(&self, text: &str) -> Result<String> {
        if let Some(found) = self.extract.find(text)?.filter(|text| !text.is_empty()) {
            return Ok(found);
        }
        let extract = Extract { pattern: in_words()?, ..self.extract.clone() };
        let found = extract.find(&text.to_lowercase())?;
        let number = found.and_then(|words| value(&words));
        Ok(number.map_or_else(|| self.extract.fallback.clone(), |number| number.to_string()))
    }
}

/// Runs of words of numbers. As in lm-eval, `six`, `seven` and `nine` alone neither begin nor end one,
/// and `eight` does not end one.
fn in_words() -> Result<Pattern> {
    let words = |teens: &str, eights: &str| {
        format!(
            "zero|one|two|three|four|five|(?:twen|thir|for|fif|six|seven|nine)(?:{teens})|\
             eight(?:{eights})|ten|eleven|twelve|fourteen|hundred|thousand|(?:m|b|tr)illion"
        )
    };
    let first = words("teen|ty", "|een|y");
    let between = words("|teen|ty", "een|y");
    let last = words("teen|ty", "een|y");
    Pattern::new(&format!(r"((?:(?:{first})(?:{between}|[^\S\r\n]|,|and|&)+)?(?:{last}))"))
}

/// What a word stands for.
fn word(word: &str) -> Option<u64> {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] =
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    const LARGE: [(&str, u64); 4] =
        [("hundred", 100), ("thousand", 1_000), ("million", 1_000_000), ("billion", 1_000_000_000)];
    if let Some(place) = SMALL.iter().position(|known| *known == word) {
        return Some(place as u64);
    }
    if let Some(place) = TENS.iter().position(|known| *known == word) {
        return Some(20 + 10 * place as u64);
    }
    LARGE.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
}

/// The number that words say, as word2number 1.1 reads them; none where it gives up.
fn value(text: &str) -> Option<u64> {
    let words: Vec<u64> = text.split_whitespace().filter_map(word).collect();
    if let [only] = words.as_slice() {
        return Some(*only);
    }
    let mut sum = 0;
    let mut begin = 0;
    // Where the last of the units stands that is not the last word.
    let mut behind = None;
    let mut found = false;
    for unit in [1_000_000_000, 1_000_000, 1_000] {
        let mut places = (0..words.len()).filter(|place| words[*place] == unit);
        let Some(place) = places.next() else {
            continue;
        };
        if places.next().is_some() {
            return None;
        }
        sum += part(words.get(begin..place)?)? * unit;
        begin = place + 1;
        found = true;
        if begin < words.len() {
            behind = Some(begin);
        }
    }
    match (behind, found) {
        (Some(begin), _) => Some(sum + part(words.get(begin..)?)?),
        (None, true) => Some(sum),
        (None, false) => part(&words),
    }
}

/// The number of some words: of four and three the first two are multiplied, of two they are if one
/// is `hundred`; the rest is added. Of more than four, word2number takes the first.
fn part(words: &[u64]) -> Option<u64> {
    Some(match words {
        [a, b, c, d] => a * b + c + d,
        [a, b, c] => a * b + c,
        [a, b] if words.contains(&100) => a * b,
        [a, b] => a + b,
        _ => *words.first()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The right sides are what lm-eval 0.4.13's `NumberParseRegexFilter` gives, `[invalid]` where it
    /// raises an error.
    #[test]
    fn numbers_of_lm_eval() {
        let cases: Vec<(&str, &str)> = vec![
            ("There are 12 and -3", "12|-3"),
            ("two", "2|2"),
            ("seven objects", "[invalid]|[invalid]"),
            ("So there are Twenty two.", "22|22"),
            ("twenty-five", "-|-"),
            ("one hundred and six", "100|100"),
            ("one hundred and sixteen", "116|116"),
            ("two thousand three hundred ten", "2310|2310"),
            ("two million three thousand", "2004003|2004003"),
            ("thousand five", "[invalid]|[invalid]"),
            ("a hundred", "100|100"),
            ("five, six, and twelve", "12|12"),
            ("forteen", "[invalid]|[invalid]"),
            ("one two three four five", "1|1"),
            ("trillion", "[invalid]|[invalid]"),
            ("nothing", "[invalid]|[invalid]"),
            ("six hundred", "100|100"),
            ("three hundred thousand ten", "300010|300010"),
            ("two billion", "2000000000|2000000000"),
            ("two billion five", "2000000005|2000000005"),
            ("one hundred twenty three thousand four hundred fifty", "123450|123450"),
            (", eight", "[invalid]|[invalid]"),
            ("million four zero", "[invalid]|[invalid]"),
            ("sixteen & fourteen twelve", "236|236"),
            ("million , & million seventy nine", "[invalid]|[invalid]"),
            ("nine and", "[invalid]|[invalid]"),
            ("zero four ten two", "12|12"),
            ("one seventeen million", "18000000|18000000"),
            ("sixty ninety seventy objects hundred", "5470|100"),
            ("fifty six", "50|50"),
            ("eight", "[invalid]|[invalid]"),
            ("thirteen sixteen ninety nineteen", "317|317"),
            ("trillion sixty objects forty", "60|40"),
            ("eighty fourteen thirty one seventeen", "80|80"),
            ("ten twenty , objects objects", "30|30"),
            ("thirteen", "13|13"),
            ("objects seventeen eighteen seven four million", "317000000|317000000"),
            ("million five forty four eighty nine", "[invalid]|[invalid]"),
            ("eighteen", "18|18"),
            ("eighty seven two two", "564|564"),
            ("thirty & seventeen trillion", "47|47"),
            ("two nineteen", "21|21"),
            ("four", "4|4"),
            (",", "[invalid]|[invalid]"),
            ("twelve", "12|12"),
            ("eighteen sixteen nine two", "299|299"),
            ("twenty fifty eight", "70|70"),
            ("sixty thousand and sixty", "60060|60060"),
            ("& six trillion seventeen ninety fifteen", "1545|1545"),
            ("ninety sixteen and", "106|106"),
            ("& thirty zero", "30|30"),
            ("twenty one sixty eight", "80|80"),
            ("thirty", "30|30"),
            ("forty forty seventeen billion", "1617000000000|1617000000000"),
            ("three", "3|3"),
            ("one fifty sixteen thousand nineteen twenty", "66039|66039"),
            ("fifty eleven", "61|61"),
            ("fifty sixteen nineteen", "819|819"),
            ("six one objects eight", "1|1"),
            ("trillion fourteen seventeen", "31|31"),
            ("twenty eleven", "31|31"),
            ("ninety six six twenty thirty fourteen", "90|90"),
            ("ten five thirty thirteen", "93|93"),
            ("hundred seventeen fourteen seven two", "100|100"),
            ("twelve twenty objects eleven seventeen", "32|28"),
            ("five forty eight", "45|45"),
            ("eighteen and seventeen thousand", "35000|35000"),
            ("eighty eighteen eighty", "1520|1520"),
            ("eighty two eighty nine twelve", "80|80"),
            ("million", "1000000|1000000"),
            ("trillion ninety & fourteen two", "1262|1262"),
            ("thousand and eighteen , thirty fourteen", "[invalid]|[invalid]"),
            ("fifteen", "15|15"),
            ("trillion twelve ninety objects three zero", "102|3"),
            ("seven ten trillion nineteen", "29|29"),
            ("one and", "1|1"),
            ("eighty three seven thirty eight", "277|277"),
            (", million three", "[invalid]|[invalid]"),
            ("fourteen twelve seven", "26|26"),
        ];
        for select in [0, -1] {
            let filter = NumberRegex {
                extract: Extract {
                    pattern: Pattern::new("([-0-9]+)").unwrap(),
                    select,
                    fallback: "[invalid]".into(),
                },
            };
            for (text, both) in &cases {
                let (first, last) = both.split_once('|').unwrap();
                let expected = if select == 0 { first } else { last };
                assert_eq!(filter.find(text).unwrap(), expected, "{text}, {select}");
            }
        }
    }
}
