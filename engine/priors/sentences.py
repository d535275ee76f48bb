"""What the synthetic voices say: sentences of our own, and a small grammar that makes as many more as are wanted."""

from __future__ import annotations

import numpy as np

ENGLISH = tuple(
    line.strip()
    for line in """
    My mother bought a big brown map of Bombay.
    Peter put the pepper pot back by the pump.
    Please bring me the blue book from the table.
    We were away when the white whale went by.
    Five very fine foxes found a farm in the fall.
    The judge had charged the church for damage.
    She should show the sheep a shallow shore.
    Think of three things that both of them need.
    A yellow yacht used to anchor by the yard.
    Go and get the green cake from the kitchen.
    Zoe says the zoo is as busy as a bus station.
    Her early bird heard the nurse turn the page.
    Boys enjoy noisy toys and spoiled oysters.
    How now, said the brown cow to the loud owl.
    I might try to find a light to ride by at night.
    Oh no, the old boat goes over the cold road home.
    Who knew that you could use two shoes as a tool?
    Could a good cook look at the wood by the brook?
    Sam sat and had a bad apple in the back of the cab.
    Tell them when the men went to the west with ten hens.
    It is a little bit of a pity that this ship is thin.
    He eats three green beans each evening in peace.
    Father parked the large car far from the garden.
    All autumn long, Paul thought about the tall horse.
    Run up, jump, come back, and touch the muddy rug.
    Maybe the baby may play in the rain today.
    Nobody remembers the number of the apartment.
    The moment I opened my mouth, the lamp went dim.
    What a wonderful morning! Let us walk by the river.
    I never said that. You must have heard it wrong.
    Leave me alone, I have had enough of all this.
    Did you really see it? I cannot believe my eyes.
    It was raining, and nobody came to say goodbye.
    Be careful, there may be somebody behind the door.
    This milk smells awful, take it out of the room.
    Oh, is that supposed to impress me? Very well, then.
    The temperature dropped to minus twelve on Monday.
    A simple rhythm helps the whole group move together.
    Measure the beige garage before you paint it.
    Lovely melodies often follow a familiar pattern.
    Vivian gave every visitor a very heavy envelope.
    Thank the other brother for the warm leather gloves.
    Captain Hook shipped a cheap ship to Egypt.
    Robin borrowed a rare red carriage from a rural friend.
    Women in the woods were weaving wool with willow wands.
    Our hour is over, and the hare is happily at home.
    Huge hills hide the house where Harry has his horse.
    The king is singing along with a long ringing gong.
    Yes, you may, but only if you finish your bread.
    Abby jumps up and mops up a puddle of pumpkin soup.
    A plump mop, a damp lamp, a limp imp, and a stump.
    Bob and Barbara rub a rib of beef above the pub.
    Memories of a mild summer made him smile for a moment.
    Mobile phones vibrate, and people interrupt themselves.
    Between you and me, the plan has never been very good.
    Every picture tells a story that nobody else can see.
    Slowly the machine began to turn, and the floor trembled.
    The scientists measured the pressure with great precision.
    Eleven elephants elegantly ate an early evening meal.
    Fresh fish, chips, and a cup of tea would be perfect.
    Pull the rope, push the pole, and hope for the best.
    An amber lamp, an empty room, an open window.
    Mum, may I have some more jam with my muffin?
    Wait a minute! We have to talk about what happened.
    Someone must have moved the piano while we slept.
    No one was to blame, but everybody felt ashamed.
    How could you possibly know about my birthday party?
    I am so proud of you, and I want everyone to know it.
    Get out of my way, or I will call the police.
    Perhaps we will meet again when the leaves begin to fall.
    Seven silver swans swam silently past the sleeping city.
    The theatre opens at half past eight this Thursday.
    I would rather have a quiet evening with a good book.
    Tomorrow we fly to Lisbon, then take the bus to Porto.
    She lived above a bakery that smelled of warm butter.
    Blue bubbles bobbed beneath the bumpy bamboo boat.
    Money comes and goes, but time only ever goes.
    """.strip().splitlines()
)

OTHERS: dict[str, tuple[str, ...]] = {
    "de": (
        "Guten Morgen, möchten Sie noch einen Becher warme Milch?",
        "Der kleine Junge aus Bamberg schüttelte müde den Kopf.",
        "Wir müssen bald umziehen, weil die Wohnung zu klein ist.",
        "Am Abend blieb Oma lieber bei ihrem Hund im Garten.",
        "Pünktlich um fünf öffnet die Bäckerei am Marktplatz.",
        "Ich habe überhaupt keine Lust, darüber zu sprechen.",
    ),
    "fr": (
        "Bonjour madame, je voudrais une petite bouteille de lait.",
        "Ma mère prépare une soupe de pommes de terre au beurre.",
        "Il fait beau ce matin, nous pouvons marcher jusqu'au pont.",
        "Personne ne m'a prévenu que le bureau serait fermé.",
    ),
    "es": (
        "Buenos días, me gustaría comprar un poco de pan blanco.",
        "Mi abuela vive en un pueblo pequeño junto al mar.",
        "Nunca pensé que el tiempo pasaría tan rápido.",
        "Vamos a esperar un momento debajo del puente.",
    ),
    "it": (
        "Buongiorno, vorrei un bicchiere di vino bianco e un panino.",
        "La mamma ha comprato una bambola per la mia bambina.",
        "Domani mattina partiamo presto per la montagna.",
    ),
    "pt": (
        "Bom dia, eu queria um copo de água por favor.",
        "A minha mãe mora numa pequena cidade perto da praia.",
        "Amanhã vamos passear no bosque com os meus primos.",
    ),
    "nl": (
        "Goedemorgen, mag ik een kopje warme melk en brood?",
        "Mijn broer woont boven een bakker bij de brug.",
        "Morgen gaan we met de bus naar het museum.",
    ),
    "sv": ("God morgon, min mamma bor i en by bredvid berget.", "På sommaren badar vi och plockar blåbär."),
    "pl": ("Dzień dobry, poproszę bułkę z masłem i kubek mleka.", "Mój brat mieszka pod miastem z małym psem."),
    "tr": ("Günaydın, bana bir bardak su verebilir misin?", "Babam bugün pazardan ekmek ve peynir almış."),
    "fi": ("Hyvää huomenta, saisinko kupin kahvia ja pullan?", "Isoäiti istuu pienen mökin pihalla."),
    "cs": ("Dobré ráno, můžete mi prosím podat chleba?", "Moje babička bydlí pod velkým kopcem."),
    "ro": ("Bună dimineața, aș vrea o bucată de pâine.", "Prietenul meu pleacă mâine cu trenul la mare."),
    "ru": ("Добрый день, я бы хотел купить белый хлеб.", "Мама и папа поехали в город за покупками."),
    "hu": ("Jó reggelt, kérek egy pohár meleg tejet.", "A nagymama piros almát vett a piacon."),
}

_WHO = """my brother|the old man|a young woman|somebody|our neighbour Paul|the captain|Emily|the baby|that lawyer|Mister Webb|the whole
family|her best friend|Pamela|nobody|a famous painter|the shepherd|Thomas|every child|the boss|a visitor""".replace("\n", " ").split("|")
_DID = """bought|will never sell|painted|must have broken|wants to move|forgot|could not lift|put away|is proud of|threw away|dreams about|has
hidden|brought back|should measure|pushed|remembers|was laughing about|paid for|chose|opened""".replace("\n", " ").split("|")
_WHAT = """a pair of shoes|the yellow umbrella|a loaf of bread|the wooden bridge|my piano|a very heavy box|the other book|a bowl of soup|the
church bell|a photograph of the village|the broken window|five apples|a map of Europe|the job|a beautiful violin|the empty bottle|that
awful noise|the blue curtain|a cup of coffee|the machine""".replace("\n", " ").split("|")
_WHERE = """in the morning|before the rain came|by the river|on Tuesday|without a word|for the wedding|behind the house|in the middle of
the night|with both hands|after supper|at the museum|as usual|above the shop|during the war|on top of the hill|from time to
time|under the table|far from home|in a hurry|for no reason""".replace("\n", " ").split("|")
_FIRST = """Believe me,|Well,|I think|Maybe|They say|Of course|Suddenly|You know,|Yesterday|Honestly,|As far as I know,|Unfortunately||||""".split("|")


def made_sentence(random: np.random.Generator) -> str:
    """One of about a million short English sentences."""
    pick = lambda options: options[random.integers(len(options))]  # noqa: E731
    text = f"{pick(_FIRST)} {pick(_WHO)} {pick(_DID)} {pick(_WHAT)} {pick(_WHERE)}".strip()
    return text[0].upper() + text[1:] + pick((".", ".", ".", "!", "?"))
