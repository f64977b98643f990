"""Which icon of a package that knows no code points shows which concept: by name, by old names, and by hand.

Every match was looked at beside the drawings of the other styles; what is wrong or blank is listed with the reason.
"""
from __future__ import annotations

import re
import unicodedata

# Concepts whose CLDR short name has changed since the packages were made.
RENAMED = {
    "smiling face with open hands": "hugging-face", "face with crossed-out eyes": "dizzy-face",
    "enraged face": "pouting-face", "robot": "robot-face", "heart exclamation": "heavy-heart-exclamation",
    "grinning cat": "grinning-cat-face", "grinning cat with smiling eyes": "grinning-cat-face-with-smiling-eyes",
    "cat with tears of joy": "cat-face-with-tears-of-joy", "cat with wry smile": "cat-face-with-wry-smile",
    "smiling cat with heart-eyes": "smiling-cat-face-with-heart-eyes", "kissing cat": "kissing-cat-face",
    "weary cat": "weary-cat-face", "crying cat": "crying-cat-face", "pouting cat": "pouting-cat-face",
    "wolf": "wolf-face", "fox": "fox-face", "lion": "lion-face", "unicorn": "unicorn-face", "bear": "bear-face",
    "hamster": "hamster-face", "panda": "panda-face", "frog": "frog-face", "bullseye": "direct-hit",
}

CHOSEN = {
    "firefox": {  # neither Unicode's name nor CLDR's leads to the right one
        "grinning face": "grin", "grinning face with big eyes": "grinwide",
        "grinning face with smiling eyes": "grinwideeyes", "beaming face with smiling eyes": "grineyes",
        "grinning squinting face": "grinsquint", "grinning face with sweat": "grinsweat",
        "face with tears of joy": "grintears", "slightly smiling face": "smallsmile", "winking face": "winking",
        "smiling face with smiling eyes": "smileeyes", "smiling face with halo": "halo",
        "smiling face with heart-eyes": "hearteyes", "face blowing a kiss": "kissing", "kissing face": "kiss",
        "kissing face with closed eyes": "kissclosedeyes", "kissing face with smiling eyes": "kisseyes",
        "face savoring food": "smiletongue", "face with tongue": "tongueout",
        "winking face with tongue": "tongueoutwink", "squinting face with tongue": "tongueoutwink2",
        "neutral face": "neutral", "expressionless face": "expressionless", "face without mouth": "nomouth",
        "smirking face": "smirk", "unamused face": "unamused", "grimacing face": "grimacing",
        "relieved face": "relieved", "pensive face": "pensive", "sleepy face": "sleepy", "sleeping face": "sleeping",
        "face with medical mask": "medicalmask", "smiling face with sunglasses": "sunglasses",
        "confused face": "confused", "worried face": "worried", "slightly frowning face": "smallfrown",
        "face with open mouth": "openmouth", "hushed face": "hushed", "flushed face": "flushed",
        "frowning face with open mouth": "frownmouth", "anguished face": "anguish", "fearful face": "fearful",
        "anxious face with sweat": "coldsweat", "sad but relieved face": "dissapointedrelief",
        "crying face": "crying", "loudly crying face": "loudlycrying", "face screaming in fear": "screamfear",
        "confounded face": "confounded", "persevering face": "perservere", "disappointed face": "disappointed",
        "downcast face with sweat": "sweat", "weary face": "weary", "tired face": "tired",
        "face with steam from nose": "triumph", "enraged face": "pouting", "angry face": "angry",
        "smiling face with horns": "devilhorns", "skull and crossbones": "blackskullcrossbones", "pile of poo": "poo",
        "goblin": "japaneseangrymask", "see-no-evil monkey": "monkeysee", "hear-no-evil monkey": "monkeyhear",
        "speak-no-evil monkey": "monkeyspeak", "heart with arrow": "heartarrow", "heart with ribbon": "heartribbon",
        "two hearts": "2hearts", "yellow heart": "heartyellow", "green heart": "heartgreen",
        "purple heart": "heartpurple", "anger symbol": "anger", "sweat droplets": "sweatsplash",
        "dashing away": "dash", "speech balloon": "speechbubble", "thought balloon": "thoughtbaloon",
        "dog face": "dog", "dog": "dogside", "cat face": "cat", "cat": "catside", "tiger face": "tiger",
        "tiger": "tigerside", "leopard": "leopardside", "pig face": "pig", "pig": "pigside", "pig nose": "pigsnout",
        "mouse face": "mouse", "mouse": "mouseside", "hamster": "hampster", "rabbit face": "bunny",
        "rabbit": "bunnyside", "front-facing baby chick": "frontfacingchick", "dragon face": "dragonhead",
        "dragon": "dragonside", "spouting whale": "spurtingwhale", "evergreen tree": "evergreen",
        "fallen leaf": "fallingleaf", "leaf fluttering in wind": "leaffluttering", "hot pepper": "chilipepper",
        "chestnut": "acorn", "fish cake with swirl": "fishcakeswirl", "fork and knife with plate": "forkknife",
        "globe showing Europe-Africa": "europeafricaglobe", "globe showing Americas": "americasglobe",
        "globe showing Asia-Australia": "asiaaustraliaglobe", "globe with meridians": "meridianglobe",
        "map of Japan": "silhouetteohjapan", "snow-capped mountain": "snowmountains",
        "beach with umbrella": "beachumbrella", "building construction": "construction", "Tokyo tower": "toykotower",
        "bullet train": "highspeedtrainbulletnose", "racing car": "racecar",
        "hourglass not done": "hourglassflowingsand", "mantelpiece clock": "manltepiececlock",
        "twelve o’clock": "clock12oclock", "twelve-thirty": "clock12thirty", "one o’clock": "clock1oclock",
        "one-thirty": "clock1thirty", "two o’clock": "clock2oclock", "two-thirty": "clock2thirty",
        "three o’clock": "clock3oclock", "three-thirty": "clock3thirty", "four o’clock": "clock4oclock",
        "four-thirty": "clock4thirty", "five-thirty": "clock5thirty", "six o’clock": "clock6oclock",
        "six-thirty": "clock6thirty", "seven o’clock": "clock7oclock", "waning gibbous moon": "waningbibbousmoon",
        "sun": "sunrays", "glowing star": "star", "cloud with lightning": "stormcloud",
        "sun behind rain cloud": "sunraincloud", "cloud with rain": "raincloud", "cloud with snow": "snowcloud",
        "water wave": "wave", "high voltage": "bolt",
        "confetti ball": "confetti", "ribbon": "bow", "wrapped gift": "present", "reminder ribbon": "reminder",
        "tennis": "tennisball", "mahjong red dragon": "mahjong", "necktie": "tie", "t-shirt": "mansshirt",
        "woman’s clothes": "womansshirt", "purse": "pinkwallet", "clutch bag": "makeupbag",
        "man’s shoe": "mensshoe", "running shoe": "mensrunner", "high-heeled shoe": "heels",
        "woman’s sandal": "sandals", "woman’s boot": "boot", "gem stone": "gem", "muted speaker": "speakercancellation",
        "speaker medium volume": "speakeronesoundwave", "speaker high volume": "speaker3soundwaves",
        "bell with slash": "bellcancellation", "studio microphone": "studiomic", "control knobs": "controlknob",
        "mobile phone": "cellphone", "mobile phone with arrow": "phonerightarrowleft",
        "telephone receiver": "telephonereceiver2", "floppy disk": "floppydisk2",
        "video camera": "handheldvideocamera", "videocassette": "videocasette",
        "magnifying glass tilted left": "leftmagnifyingglass",
        "magnifying glass tilted right": "rightmagnifyingglass",
        "notebook with decorative cover": "notebookdecorativecover", "bookmark tabs": "bookmarktab",
        "yen banknote": "banknoteyen", "dollar banknote": "banknotedollar", "euro banknote": "banknoteeuro",
        "pound banknote": "banknotepound", "chart increasing with yen": "chartupwardstrendyen",
        "envelope with arrow": "envelopedownarrowabove", "outbox tray": "outbox",
        "closed mailbox with raised flag": "closedmailboxraised",
        "closed mailbox with lowered flag": "closedmailboxlowered",
        "open mailbox with raised flag": "openmailboxraised", "open mailbox with lowered flag": "openmailboxlowered",
        "ballot box with ballot": "ballottboxwithballott", "pen": "lowerleftpen",
        "chart increasing": "chartupwardstrend", "chart decreasing": "chartdownwardstrend",
        "locked with key": "lockandkey", "fox": "foxsmiling", "laptop": "oldpersonalcomputer",
        "desktop computer": "personalcomputer", "keyboard": "wiredkeyboard", "closed umbrella": "umbrella",
    },
    "streamline": {  # one of two or three drawings of the same thing, or a name of its own
        "rolling on the floor laughing": "rolling-on-the-floor-laughing-2", "star-struck": "star-struck-1",
        "zany face": "crazy-face", "winking face with tongue": "squinting-face-with-tongue",
        "squinting face with tongue": "winking-face-with-tongue", "money-mouth face": "money-mouth-face-1",
        "face with hand over mouth": "amusing-face", "relieved face": "relieved-face-1",
        "drooling face": "drooling-face-1", "nauseated face": "nauseated-face-2", "hushed face": "hushed-face-2",
        "weary face": "weary-face-1", "robot": "robot-face-1", "fox": "fox-face-2", "boar": "boar-1",
        "hatching chick": "hatching-chick-1", "bird": "bird-2", "penguin": "penguin-2", "sunflower": "sunflower-1",
        "cactus": "cactus-1", "melon": "melon-1", "watermelon": "watermelon-2", "strawberry": "strawberry-1",
        "hamburger": "hamburger-2", "pizza": "pizza-1", "soft ice cream": "soft-ice-cream-1",
        "doughnut": "doughnut-1", "birthday cake": "birthday-cake-1", "shortcake": "shortcake-2",
        "hot beverage": "hot-beverage-2", "clinking glasses": "clinking-glasses-1",
        "hourglass not done": "hourglass-not-done-2", "cloud": "cloud-1", "cloud with rain": "cloud-with-rain-1",
        "wrapped gift": "wrapped-gift-1", "tennis": "tennis-1", "crystal ball": "crystal-ball-2",
        "game die": "game-dice", "glasses": "glasses-1", "backpack": "school-backpack", "ring": "ring-2",
        "e-mail": "e-mail-1",
    },
}

DROPPED = {
    "blob": {
        "comet": "the same drawing as noto's", "right anger bubble": "the same drawing as noto's",
        "tornado": "nearly the same drawing as noto's", "cricket": "the game, not the insect",
        "laptop": "a desktop computer",
    },
    "emojione": {"cricket": "the game, not the insect"},
    "firefox": {
        "astonished face": "crossed-out eyes", "blue heart": "drawn beside its frame", "ewe": "a ram",
        "tram car": "black: its colours are missing", "hourglass done": "the same drawing as hourglass not done",
        "umbrella": "closed", "sun behind small cloud": "a large cloud", "fog": "hardly visible",
        "water pistol": "a revolver", "game die": "a domino", "linked paperclips": "a chain",
        "window": "of a computer's screen",
    },
    "streamline": {
        "turkey": "the flag of the country", "ewe": "a ram", "maple leaf": "a leaf of hemp",
        "right anger bubble": "a thought balloon", "headphone": "an earphone",
    },
}


def slug(name: str) -> str:
    """Lower-case ASCII words joined by hyphens, as Iconify names its icons."""
    plain = unicodedata.normalize("NFKD", name.replace("’", "")).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall("[a-z0-9]+", plain))


def candidates(style: str, row: dict) -> list[tuple[str, str]]:
    """(icon name, way it was found) of a concept, best first."""
    concept = row["concept"]
    hand = CHOSEN.get(style, {}).get(concept)
    names = [(hand, "hand")] if hand else []
    if style == "firefox":
        unicode_name = " ".join(unicodedata.name(chr(int(code, 16)), "") for code in row["hexcode"].split("-"))
        return names + [(slug(name).replace("-", ""), way)
                        for name, way in ((unicode_name, "Unicode name"), (concept, "CLDR name"))]
    names.append((slug(concept), "CLDR name"))
    if concept in RENAMED:
        names.append((RENAMED[concept], "old CLDR name"))
    return names


def match(style: str, rows: list[dict], known: set[str]) -> dict[str, tuple[str, str]]:
    """Plain hexcode -> (icon name, way it was found) of every concept that a package shows rightly."""
    found = {}
    for row in rows:
        fitting = [pair for pair in candidates(style, row) if pair[0] in known]
        if fitting and row["concept"] not in DROPPED[style]:
            found[row["hexcode"]] = fitting[0]
    return found
