"""A small rule-based part-of-speech tagger for captions, used where nltk or its data are missing.

It only has to find noun phrases: words of closed classes come from lists, verbs and adjectives from short lists,
endings and neighbours, and every other word is a noun.  Tags are those of the Penn Treebank; a punctuation mark is its
own tag.
"""

from __future__ import annotations

from collections.abc import Sequence

_CLOSED_CLASSES = {
    "DT": "a an the this that these those each every some any no another both either neither all",
    "IN": """
        about above across after against along alongside amid among amongst around as at atop because before behind
        below beneath beside besides between beyond by despite down during except for from if in inside into near like
        of off on onto opposite out outside over past per since than through throughout toward towards under underneath
        unless until up upon via while whilst with within without next
    """,
    "TO": "to",
    "CC": "and or but nor plus so yet &",
    "PRP": "i you he she it we they me him us them himself herself itself themselves himself someone something "
    "somebody anyone anything everyone everything nobody nothing",
    "PRP$": "my your his her its our their whose",
    "WDT": "which who whom what where when why how",
    "EX": "there",
    "CD": "zero one two three four five six seven eight nine ten eleven twelve dozen hundred thousand several",
    "MD": "can could may might must shall should will would",
    "VB": """
        is are was were be been being am has have had having do does did doing done get gets got getting 's 're 've
        'm 'd 'll 't
    """,
    "RB": """
        not n't very too also just only here away apart together back forward forwards backward backwards ahead almost
        already always ever even far later maybe more most never now often once quite rather really soon still then
        today twice well aside nearby upside please
    """,
}
_LEXICON = {word: tag for tag, words in _CLOSED_CLASSES.items() for word in words.split()}

_ADJECTIVES = frozenset(
    """
    red green blue yellow purple pink brown black white gray grey cyan beige golden tan dark bright pale light-colored
    big small large little tiny huge tall short long wide narrow thick thin high low deep old new young modern ancient
    good bad nice beautiful pretty cute ugly happy sad funny friendly lovely elderly early full empty open closed dirty
    clean wet dry hot cold warm cool soft hard smooth rough sharp round square flat straight curved curly fluffy furry
    hairy fuzzy shiny wooden woolen plastic metallic concrete colorful colourful striped spotted dotted checkered plain
    heavy light fast slow quick busy quiet loud many few much other same different various single double several own
    left right upper lower front rear male female human alone asleep awake visible available bigger best better larger
    smaller taller shorter biggest smallest largest tallest leftmost rightmost topmost
    """.split()
)
_NOUN_OR_ADJECTIVE = frozenset(["orange", "light", "square", "left", "right", "front", "human", "plastic", "double"])

_VERBS = frozenset(
    """
    sit stand ride hold wear walk run jump eat look see find show chase throw catch lie hang swim sleep lean carry
    detect locate spot point
    """.split()
)
_VERB_S_FORMS = frozenset(
    """
    sits stands rides holds wears walks runs jumps eats looks sees finds shows chases throws catches lies hangs swims
    sleeps leans carries plays flies faces watches reads drives pulls pushes touches covers crosses follows surrounds
    contains appears seems goes comes takes makes uses waits talks smiles reaches kicks hits grazes drinks rests lays
    """.split()
)
_PAST_FORMS = frozenset("sat stood rode held wore ran ate saw found threw caught lay hung swam slept lit".split())

_ING_NOUNS = frozenset(
    """
    building ceiling painting clothing string ring king wing spring swing sling railing earring wedding thing evening
    morning lightning herring pudding sibling dressing icing crossing landing stocking filling frosting topping
    awning bunting coating piping
    """.split()
)
_ING_MODIFIERS = frozenset(
    """
    parking dining living swimming washing sewing baking cutting steering shopping sleeping frying rolling drawing
    fishing boxing wrapping skating surfing knitting measuring vending
    """.split()
)
_ED_NOUNS = frozenset("bed shed sled seed weed reed feed breed speed thoroughbred moped bobsled steed flatbed".split())
_LY_NOUNS = frozenset("butterfly dragonfly family fly firefly jelly belly lily assembly ply monopoly".split())
_LY_ADJECTIVES = frozenset("woolly wooly silly oily hilly bubbly cuddly smelly wrinkly".split())

_BEFORE_NOUN = frozenset(["DT", "JJ", "PRP$", "CD", "POS"])
_NOUNS = frozenset(["NN", "NNS"])
_SUBJECTS = frozenset(["NN", "NNS", "PRP", "RB", "WDT", "EX"])


def tag_words(words: Sequence[str]) -> list[str]:
    """Penn Treebank tags of the lower-cased words and punctuation marks of a caption."""
    tags: list[str] = []
    for index, word in enumerate(words):
        previous = tags[-1] if tags else ""
        following = words[index + 1] if index + 1 < len(words) else ""
        tags.append(_tag(word, previous, following))
    return tags


def _tag(word: str, previous: str, following: str) -> str:
    if not any(character.isalnum() for character in word) and word.isascii():
        return _LEXICON.get(word, word)
    if word in ("'s", "’s"):
        return "POS" if previous in _NOUNS and _may_be_nominal(following) else "VB"
    if word in ("left", "right") and following == "of":
        return "RB"
    if word == "that" and previous in _NOUNS:
        return "WDT"
    if word in ("one", "ones") and previous == "JJ":
        return "NN"
    if word == "next" and following != "to":
        return "JJ"
    if word in _NOUN_OR_ADJECTIVE:
        return "JJ" if _may_be_noun(following) or previous == "VB" else "NN"
    if word in _LEXICON:
        return _LEXICON[word]
    if word[0].isdigit():
        return "CD"
    if word in _ADJECTIVES:
        return "JJ"
    return _tag_open_class(word, previous, following)


def _tag_open_class(word: str, previous: str, following: str) -> str:
    if word in _VERBS or word in _PAST_FORMS:
        return "NN" if previous in _BEFORE_NOUN else "VB"
    if word in _VERB_S_FORMS:
        return "VBZ" if previous in _SUBJECTS or _starts_object(following) else "NNS"
    if word.endswith("ing") and len(word) > 4 and word not in _ING_NOUNS:
        return _tag_participle(word in _ING_MODIFIERS, "VBG", previous, following)
    if word.endswith("ed") and len(word) > 3 and word not in _ED_NOUNS:
        return _tag_participle(False, "VBN", previous, following)
    if word.endswith("ly") and len(word) > 3 and word not in _LY_NOUNS:
        return "JJ" if word in _LY_ADJECTIVES else "RB"
    if word.endswith("s") and not word.endswith("ss"):
        return "VBZ" if previous in _NOUNS and _starts_object(following) else "NNS"  # "the boy paints the wall"
    return "NN"


def _tag_participle(modifies: bool, verb_tag: str, previous: str, following: str) -> str:
    """ "a sleeping dog" and "parking meter" describe a noun, "a man riding a horse" does not, "a clearing" is one."""
    if previous in _BEFORE_NOUN:
        if _may_be_nominal(following):
            return "JJ"
        return "NN" if previous != "CD" and verb_tag == "VBG" else verb_tag
    return "JJ" if modifies and _may_be_noun(following) else verb_tag


def _starts_object(word: str) -> bool:
    return _LEXICON.get(word) in ("DT", "PRP$", "CD", "PRP")


def _may_be_noun(word: str) -> bool:
    return bool(word) and word[0].isalpha() and word not in _LEXICON and word not in _VERB_S_FORMS


def _may_be_nominal(word: str) -> bool:
    """Whether a noun or an adjective in front of one may stand there."""
    return _may_be_noun(word) or word in _ADJECTIVES
