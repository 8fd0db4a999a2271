"""From writing to spoken English words, and from an unknown word to phones by rule.

- numbers, ordinals, money and percentages become words (0 to 999,999,999; longer digits are read one by one);
- a word that no dictionary knows is read by an ordered table of letter patterns: anything alphabetic speaks.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SCALES = ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred"))
LARGEST_NUMBER = 999_999_999
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound"}
SYMBOLS = {"&": "and", "@": "at", "+": "plus", "=": "equals", "%": "percent", "°": "degrees", "#": "number"}
ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor", "vs": "versus",
    "etc": "et cetera", "e.g": "for example", "i.e": "that is", "approx": "approximately",
}  # fmt: skip
LATIN = str.maketrans(
    {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "th", "þ": "th", "ı": "i"}
)
QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'"})

LETTERS = {
    "a": "EY1", "b": "B IY1", "c": "S IY1", "d": "D IY1", "e": "IY1", "f": "EH1 F", "g": "JH IY1",
    "h": "EY1 CH", "i": "AY1", "j": "JH EY1", "k": "K EY1", "l": "EH1 L", "m": "EH1 M", "n": "EH1 N",
    "o": "OW1", "p": "P IY1", "q": "K Y UW1", "r": "AA1 R", "s": "EH1 S", "t": "T IY1", "u": "Y UW1",
    "v": "V IY1", "w": "D AH1 B AH0 L Y UW0", "x": "EH1 K S", "y": "W AY1", "z": "Z IY1",
}  # fmt: skip

# `pattern/phones`: the first pattern that matches at a position wins. C is a consonant letter, V a vowel one.
# Vowels carry no stress yet; AX and AXR are the vowels that never take it. Silent letters have no phones.
RULES = r"""
tion(?=s?$)/SH-AX-N ssion(?=s?$)/SH-AX-N (?<=V)sion(?=s?$)/ZH-AX-N sion(?=s?$)/SH-AX-N cian(?=s?$)/SH-AX-N
ture(?=[sd]?$)/CH-AXR (?<=[tc])ial(?=s?$|ly$)/AX-L [tc]ious(?=$|ly$)/SH-AX-S ous(?=$|ly$)/AX-S
able(?=s?$)/AX-B-AX-L ible(?=s?$)/AX-B-AX-L (?<=C)le(?=[sd]?$)/AX-L ment(?=s?$)/M-AX-N-T ness(?=$)/N-AX-S
less(?=$)/L-AX-S (?<=V.)age(?=s?$)/IH-JH (?<=C)ism$/IH-Z-AX-M (?<=..[td])ed$/AX-D (?<=..[kpfsxhc])ed$/T
(?<=...)(?<=C)ed$/D (?<=[szx])es$/AX-Z (?<=[sc]h)es$/AX-Z (?<=[cg])es$/AX-Z (?<=[kpft])es$/S (?<=C)es$/Z
(?<=..C)ies$/IY-Z (?<=..C)ied$/IY-D (?<=[kpft])s$/S ss/S (?<=[aeobdglmnrvwy])s$/Z ^kn/N ^gn/N ^wr/R ^ps/S
^pn/N ^pt/T ^x/Z ^wh(?=o)/HH wh/W mb$/M mn$/M bt$/T stle(?=s?$)/S-AX-L sten(?=s?$)/S-AX-N ^mc(?=C)/M-AX-K
tch/CH tsch/CH sch(?=[mnltw]|$)/SH sch/S-K ch(?=[rl])/K ch/CH ck/K cq/K sh/SH (?<=V)th(?=er|ing|e$)/DH th/TH
ph/F eigh/EY igh/AY augh/AO ough(?=t)/AO ough/OW (?<!^)gh(?!V)/ gh/G que$/K qu/K-W dge(?=s?$)/JH
dg(?=[eiy])/JH gg/G cc(?=[eiy])/K-S sc(?=[eiy])/S zz/Z rh/R ng(?=$|s|ing|ed|C)/NG n(?=[kxq])/NG
n(?=g[aou])/NG-G x/K-S c(?=[eiy])/S c/K g(?=[ey]|i[aonc])/JH (?<=ng)g(?=V)/ g/G j/JH ^y/Y y(?=[aou])/Y
(?<=V)s(?=V)/Z s(?=m$)/Z s/S tt/T pp/P bb/B dd/D ff/F ll/L mm/M nn/N kk/K vv/V eer/IH-R ear(?=[nltc])/ER
ear/IH-R air/EH-R are(?=s?$)/EH-R arr(?=V)/EH-R (?<=qu)ar/AO-R (?<=w)ar/AO-R (?<=..C)ard(?=s?$)/AXR-D
ar(?=V)/ER arr?/AA-R err(?=V)/EH-R er(?=[iy])/IH-R er(?=s?$)/AXR err?/ER ier(?=s?$)/IY-AXR ire(?=[sd]?$)/AY-R
irr?/ER oar/AO-R oor/AO-R our/AO-R (?<=w)or(?=[dkmlst])/ER (?<=..C)or(?=s?$)/AXR ore?/AO-R ure(?=$)/Y-UH-R
urr?/ER yr/ER ai/EY ay/EY aw/AO au/AO ee/IY ea(?=d$|lth|th|v[ey])/EH ea/IY ein/AY-N ei/IY eau/OW eu/UW ew/UW
ey$/IY ey/EY ie/IY ia$/IY-AX io(?=n)/Y-AX oa/OW oe$/OW oi/OY oy/OY oo(?=[kd])/UH oo/UW ou/AW ow$/OW
ow(?=[nld]|er)/AW ow/OW ue$/UW (?<=[jlr])ui/UW ui/IH uy/AY a(?=st?e[sd]?$|Ce[sd]?$|C(?:ing|er)$)/EY
e(?=Ce[sd]?$)/IY i(?=Ce[sd]?$|C(?:ing|er)$)/AY o(?=Ce[sd]?$|C(?:ing|er)$)/OW u(?=Ce[sd]?$|C(?:ing|er)$)/UW
y(?=Ce[sd]?$)/AY i(?=nd$|ld$)/AY o(?=ld|lt$|ll$|st$)/OW a(?=ll?$|lk|ld|lt)/AO (?<=^w)a(?=[ntsd])/AA
a(?=[ct]io)/EY o(?=[ts]io)/OW u(?=[ts]io)/UW ^re(?=CV)/R-IY ^de(?=CV)/D-IH ^be(?=CV)/B-IH a$/AX (?<=V)e$/
(?<=C)e$/ i$/IY o$/OW u$/UW (?<=^C)y$/AY (?<=^CC)y$/AY y$/IY i(?=[aou])/IY e(?=ly$|ment|ness$|ful|less)/
a(?=CV)/AX a/AE e/EH i/IH o(?=CV)/OW o/AA u(?=CV)/UW u/AH y/IH b/B d/D f/F h(?=V)/HH h/ k/K l/L m/M n/N p/P
q/K r/R t/T v/V w(?=V)/W w/ z/Z
"""
UNSTRESSED = {"AX": "AH0", "AXR": "ER0"}


def spell_number(number: int) -> str:
    """Spoken English: 1_205 -> 'one thousand two hundred five'. ValueError outside 0..999,999,999."""
    if not 0 <= number <= LARGEST_NUMBER:
        raise ValueError(f"numbers are read from 0 to {LARGEST_NUMBER:,}, got {number:,}")
    words: list[str] = []
    for value, name in SCALES:
        if number >= value:
            words += [spell_number(number // value), name]
            number %= value
    if number >= len(ONES):
        words.append(TENS[number // 10])
        number %= 10
    if number or not words:
        words.append(ONES[number])
    return " ".join(words)


def spell_digits(digits: str) -> str:
    """A string of digits as a number, or one by one if it is too long or begins with a zero."""
    if len(digits) > len(str(LARGEST_NUMBER)) or (len(digits) > 1 and digits[0] == "0"):
        return " ".join(ONES[int(digit)] for digit in digits)
    return spell_number(int(digits))


def spell_ordinal(digits: str) -> str:
    """'21' -> 'twenty first'."""
    *head, last = spell_digits(digits).split()
    ordinal = ORDINALS.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return " ".join([*head, ordinal])


def to_words(text: str) -> str:
    """Lower case text in which numbers, money, abbreviations and accents are plain English words.

    Letters of other scripts and symbols without a word stay as they are.
    """
    text = unicodedata.normalize("NFKC", text).translate(QUOTES).lower().translate(LATIN)
    text = "".join(c for c in unicodedata.normalize("NFD", text) if not ("\u0300" <= c <= "\u036f"))
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))", "", text)
    text = re.sub(r"([$€£])\s?([0-9]+)(?:\.([0-9]{2})(?![0-9]))?", _money, text)
    text = re.sub(r"([0-9]+)(?:st|nd|rd|th)\b", lambda m: f" {spell_ordinal(m[1])} ", text)
    text = re.sub(r"(?<![0-9])([0-9]{1,2}):([0-9]{2})(?![0-9])", _time, text)
    text = re.sub(r"(?<=[0-9])\.([0-9]+)", lambda m: f" point {' '.join(ONES[int(d)] for d in m[1])} ", text)
    text = re.sub(r"(?<![0-9a-z])[-−](?=[0-9])", " minus ", text)
    text = re.sub(r"[0-9]+", lambda m: f" {spell_digits(m[0])} ", text)
    text = re.sub(r"\b([a-z]+(?:\.[a-z]+)?)\.?(?![a-z'])", _abbreviation, text)
    text = re.sub(f"[{re.escape(''.join(SYMBOLS))}]", lambda m: f" {SYMBOLS[m[0]]} ", text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def _money(match: re.Match[str]) -> str:
    name, whole, cents = CURRENCIES[match[1]], match[2], match[3]
    words = f"{spell_digits(whole)} {name}" + ("" if int(whole) == 1 else "s")
    return f" {words} {spell_number(int(cents))} " if cents and int(cents) else f" {words} "


def _time(match: re.Match[str]) -> str:
    hours, minutes = int(match[1]), int(match[2])
    spoken = "o'clock" if minutes == 0 else f"oh {ONES[minutes]}" if minutes < 10 else spell_number(minutes)
    return f" {spell_number(hours)} {spoken} "


def _abbreviation(match: re.Match[str]) -> str:
    return ABBREVIATIONS.get(match[1], match[0])


@cache
def _rules() -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    pairs = (entry.rsplit("/", 1) for entry in RULES.split())
    classes = {"C": "[bcdfghjklmnpqrstvwxz]", "V": "[aeiouy]"}
    return tuple(
        (re.compile(re.sub("[CV]", lambda m: classes[m[0]], pattern)), tuple(filter(None, phones.split("-"))))
        for pattern, phones in pairs
    )


def sound_out(word: str) -> tuple[str, ...]:
    """Phones of a word of the letters a to z by rule; without a vowel letter it is read letter by letter."""
    if not re.search("[aeiouy]", word):
        return tuple(" ".join(LETTERS[letter] for letter in word).split())
    phones: list[str] = []
    at = 0
    while at < len(word):
        pattern, sound = next((p, s) for p, s in _rules() if (m := p.match(word, at)) and m.end() > at)
        phones += sound
        at = pattern.match(word, at).end()  # type: ignore[union-attr]
    return _stressed(phones) if phones else tuple(" ".join(LETTERS[letter] for letter in word).split())


def _stressed(phones: list[str]) -> tuple[str, ...]:
    """The first full vowel takes the stress; with a final -tion or -sion, the vowel in front of it."""
    vowels = [i for i, phone in enumerate(phones) if phone[0] in "AEIOU" and phone not in UNSTRESSED]
    reduced = [UNSTRESSED.get(phone, phone) for phone in phones]
    if not vowels:
        first = next((i for i, phone in enumerate(reduced) if phone.endswith("0")), None)
        return tuple(phone.replace("0", "1") if i == first else phone for i, phone in enumerate(reduced))
    late = phones[-3:] in (["SH", "AX", "N"], ["ZH", "AX", "N"])
    main = vowels[-1] if late else vowels[0]
    for i in vowels:
        reduced[i] += "1" if i == main else "0"
    return tuple(reduced)
