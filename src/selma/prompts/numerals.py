"""Numbers as lists are numbered, in several ways of writing them."""

from __future__ import annotations

import unicodedata

_WORDS = {
    word: number
    for words in (
        "one two three four five six seven eight nine ten",
        "first second third fourth fifth sixth seventh eighth ninth tenth",
        "birinci ikinci üçüncü dördüncü beşinci altıncı yedinci sekizinci dokuzuncu onuncu",
        "bir iki üç dört beş altı yedi sekiz dokuz on",
        "erstens zweitens drittens viertens fünftens sechstens siebtens achtens neuntens zehntens",
        "eins zwei drei vier fünf sechs sieben acht neun zehn",
        "premièrement deuxièmement troisièmement",
        "premier deuxième troisième quatrième cinquième sixième septième huitième neuvième dixième",
        "primero segundo tercero cuarto quinto sexto séptimo octavo noveno décimo",
        "primo secondo terzo quarto quinto sesto settimo ottavo nono decimo",
        "primeiro segundo terceiro quarto quinto sexto sétimo oitavo nono décimo",
        "eerste tweede derde vierde vijfde zesde zevende achtste negende tiende",
        "первый второй третий четвёртый пятый шестой седьмой восьмой девятый десятый",
        "pierwszy drugi trzeci czwarty piąty szósty siódmy ósmy dziewiąty dziesiąty",
    )
    for number, word in enumerate(words.split(), 1)
}
STEMS = "甲乙丙丁戊己庚辛壬癸"
"""The heavenly stems, which number things in Chinese."""


def numbered(word: str) -> int:
    """What a word that numbers things stands for; 0 if it is none."""
    return _WORDS.get(word.lower().replace("\u0307", ""), 0)  # which İ leaves in small letters


def enclosed(character: str) -> int | None:
    """The value of a number in a circle, in parentheses, with a period, as one character."""
    if not character or unicodedata.category(character) != "No":
        return None
    value = unicodedata.numeric(character, -1.0)
    shape = unicodedata.decomposition(character).split(" ")[0]
    plain = shape in ("<super>", "<sub>", "<fraction>") or value != int(value)
    return None if plain else int(value)


_ONES = ("", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix")
_TENS = ("", "x", "xx", "xxx", "xl")
ROMAN = {
    f"{tens}{ones}": 10 * t + n for t, tens in enumerate(_TENS) for n, ones in enumerate(_ONES)
}
"""Roman numbers up to 49, in small letters; "" is 0."""
_DIGITS = ("", *"一二三四五六七八九")
CHINESE = {
    f"{_DIGITS[t] if t > 1 else ''}{'十' if t else ''}{digit}": 10 * t + n
    for t in range(10)
    for n, digit in enumerate(_DIGITS)
}
"""Chinese numbers up to 99; "" is 0."""
