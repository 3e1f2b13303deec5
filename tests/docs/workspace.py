"""A folder of small inputs in which the commands of the cards are run: texts, tokens, models and labelled data.

The names are those that a card uses: `corpus`, `tokenizer`, `tokens` (with `other_tokenizer`, `other_tokens`), the
pre-trained models `run`, `other` (the same sizes from another seed) and `small` (narrower), the fine-tuned models
`classifier` and `embedder`, the index `index`, and the files of `write_data`.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

THINGS = ["river", "mountain", "window", "garden", "captain", "letter", "summer", "winter", "village", "teacher"]
GERMAN_THINGS = ["Fluss", "Berg", "Fenster", "Garten", "Kapitän", "Brief", "Sommer", "Winter", "Dorf", "Lehrer"]
DEEDS = ["crossed", "painted", "followed", "remembered", "answered", "carried", "opened", "watched"]
MANNERS = ["slowly", "in the morning", "without a word", "for the last time", "with great care", "once more"]
SIZES = ["model.width=32", "model.depth=2", "model.heads=2", "model.intermediate_size=64"]
BUDGET = [
    "train.batch_tokens=1024",
    "train.eval_tokens=512",
    "train.evals=1",
    "train.threads=1",
    "train.precision=fp32",
]
STEPS = 12

SETUP = (
    "corpus build texts --out corpus --workers 1",
    "tokens train corpus --out tokenizer vocab_size=512",
    "tokens encode corpus --tokenizer tokenizer --out tokens --workers 1",
    "tokens train corpus --out other_tokenizer vocab_size=400",
    "tokens encode corpus --tokenizer other_tokenizer --out other_tokens --workers 1",
    "pretrain tokens --recipe demo --out run",
    "pretrain tokens --recipe demo --out other train.seed=1",
    "pretrain tokens --recipe demo --out small model.width=16 model.intermediate_size=32",
    "finetune classify classify.csv --model run --out classifier",
    "embed train pairs.jsonl --model run --recipe base --out embedder",
    "search index corpus --model run --out index",
)


def sentence(rng: random.Random) -> str:
    return (
        f"The {rng.choice(THINGS)} and the {rng.choice(THINGS)} were there when the {rng.choice(THINGS)} "
        f"{rng.choice(DEEDS)} the {rng.choice(THINGS)} {rng.choice(MANNERS)}, number {rng.randrange(10_000)}."
    )


def write_texts(folder: Path) -> None:
    """Write 60 documents of 12 sentences."""
    rng = random.Random(0)
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text(" ".join(sentence(rng) for _ in range(12)), encoding="utf-8")


def write_table(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> None:
    """Write labelled and raw data of each kind, a file per kind."""
    rng = random.Random(1)
    texts = [sentence(rng) for _ in range(80)]
    labels = ["outside" if "river" in text or "mountain" in text else "inside" for text in texts]
    write_table(folder / "classify.csv", ["text", "label"], list(zip(texts, labels, strict=True)))
    pairs = [(text, sentence(rng)) for text in texts]
    labelled = [(*pair, label) for pair, label in zip(pairs, labels, strict=True)]
    write_table(folder / "pair.csv", ["text_a", "text_b", "label"], labelled)
    write_table(folder / "duplicates.csv", ["text_a", "text_b", "label"], [(*p, n % 2) for n, p in enumerate(pairs)])
    write_table(folder / "sts.csv", ["sentence1", "sentence2", "score"], [(*p, n % 6) for n, p in enumerate(pairs)])
    write_table(folder / "rank.csv", ["query", "text", "label"], [(a, b, n % 2) for n, (a, b) in enumerate(pairs)])
    halves = [(a, a.split(" when ")[0], b.split(" when ")[0]) for a, b in pairs]
    write_lines(folder / "pairs.jsonl", [{"anchor": a, "positive": b} for a, b, _ in halves])
    write_lines(folder / "triples.jsonl", [{"anchor": a, "positive": b, "negative": c} for a, b, c in halves])
    scored = [{"anchor": a, "positive": b, "negatives": [c], "scores": [5.0, 1.0]} for a, b, c in halves]
    write_lines(folder / "scored.jsonl", scored)
    (folder / "sentences.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    write_lines(folder / "documents.jsonl", [{"text": " ".join(texts[n : n + 8])} for n in range(0, 72, 4)])
    write_words(folder, texts)
    write_questions(folder, texts)
    write_retrieval(folder / "beir", halves)
    write_languages(folder)
    write_reports(folder)


def write_words(folder: Path, texts: list[str]) -> None:
    """Write texts with tags of words, spans, sets of labels and words to add to a vocabulary."""
    tagged, spans, sets = [], [], []
    for text in texts:
        words = text.rstrip(".").replace(",", " ,").split()
        tagged.append({"tokens": words, "tags": ["B-THING" if word in THINGS else "O" for word in words]})
        places = [(text.index(f" {word}") + 1, word) for word in THINGS if f" {word}" in text]
        marked = [{"start": at, "end": at + len(word), "label": "thing"} for at, word in places]
        spans.append({"text": text, "spans": marked, "types": ["thing", "person"]})
        sets.append({"text": text, "labels": sorted({word for _, word in places})[:2]})
    write_lines(folder / "tags.jsonl", tagged)
    write_lines(folder / "spans.jsonl", spans)
    write_lines(folder / "multilabel.jsonl", sets)
    pairs = [f"{word}\t{translation}\n" for word, translation in zip(THINGS, GERMAN_THINGS, strict=True)]
    (folder / "english_german.txt").write_text("".join(pairs), encoding="utf-8")
    (folder / "dutch_words.txt").write_text("rivieroever\nzomertuin\n", encoding="utf-8")


def write_questions(folder: Path, texts: list[str]) -> None:
    """Write questions about a context, with several answers, with a gap, and pairs of a good and a bad sentence."""
    answered, chosen, gaps, minimal = [], [], [], []
    for number, text in enumerate(texts):
        thing = next(word for word in THINGS if f" {word}" in text)
        answer = {"text": [thing], "answer_start": [text.index(f" {thing}") + 1]} if number % 4 else {}
        empty = {"text": [], "answer_start": []}
        answered.append({"question": f"What was there, number {number}?", "context": text, "answers": answer or empty})
        chosen.append({"question": text, "choices": [f"the {thing}", "nothing at all"], "label": 0})
        gaps.append(
            {"prompt": f"The [MASK] was there, {number}.", "answers": [THINGS[number % 5]], "relation": "there"}
        )
        minimal.append({"good": text, "bad": " ".join(reversed(text.split())), "kind": "order"})
    write_lines(folder / "questions.jsonl", answered)
    write_lines(folder / "choices.jsonl", chosen)
    write_lines(folder / "facts.jsonl", gaps)
    write_lines(folder / "minimal_pairs.jsonl", minimal)


def write_retrieval(folder: Path, halves: list[tuple[str, str, str]]) -> None:
    """Write a BEIR folder: each sentence is to find its first half."""
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", [{"_id": f"d{n}", "text": b} for n, (_, b, _) in enumerate(halves)])
    write_lines(folder / "queries.jsonl", [{"_id": f"q{n}", "text": a} for n, (a, _, _) in enumerate(halves)])
    lines = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{n}\t1" for n in range(len(halves)))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


# Language or domain -> who, does, what, where; a sentence is one of each.
LANGUAGES = {
    "german": (
        "Der Lehrer|Der Kapitän|Unser Nachbar|Das Mädchen|Ein Schiffer|Der alte Müller|Die Ärztin|Mein Großvater",
        "kaufte|suchte|reparierte|verkaufte|zeichnete|vergaß",
        "das Brot und die Butter|einen schönen Hut|das kaputte Fenster|ein Haus mit Garten|den Brief der Tante|Äpfel",
        "am Fluss|auf dem Berg|nach dem Sommer|im langen Winter|am frühen Morgen|mit Freunden aus dem Dorf",
    ),
    "dutch": (
        "De bakker|De lerares|Onze buurman|Het meisje|Een schipper|De oude molenaar|De dokter|Mijn grootvader",
        "kocht|zocht|repareerde|verkocht|tekende|vergat",
        "het brood en de boter|een mooie hoed|de kapotte klok|een huis met een tuin|de brief van tante|veel appels",
        "in de zomertuin|op de heuvel|na de regen|voor de kerk|op de rivieroever|met zijn vrienden",
    ),
    "russian": (
        "Пекарь|Учительница|Наш сосед|Девочка|Один моряк|Старый мельник|Врач из города|Мой дедушка",
        "купил на рынке|долго искал|починил|продал|нарисовал|забыл взять",
        "хлеб и молоко|шляпу из соломы|сломанные часы|дом с садом|письмо от тёти|яблоки и груши",
        "в городе|на холме|после дождя|перед церковью|рано утром|с друзьями и не раз",
    ),
    "spanish": (
        "El panadero|La maestra|Nuestro vecino|La niña|Un marinero|El viejo molinero|La doctora|Mi abuelo",
        "compró|buscó|reparó|vendió|dibujó|olvidó",
        "el pan y la leche|un sombrero de paja|el reloj roto|una casa con jardín|la carta de su tía|muchas manzanas",
        "en la ciudad|sobre la colina|después de la lluvia|delante de la iglesia|por la mañana|con sus amigos",
    ),
    "polish": (
        "Piekarz|Nauczycielka|Nasz sąsiad|Mała dziewczynka|Stary żeglarz|Młynarz z wioski|Lekarka|Mój dziadek",
        "kupił na targu|długo szukał|naprawił|sprzedał za grosze|narysował|zapomniał zabrać",
        "chleb i mleko|kapelusz ze słomy|zepsuty zegar|dom z ogrodem|list od ciotki|jabłka i gruszki",
        "w mieście|na wzgórzu|po deszczu|przed kościołem|z samego rana|z przyjaciółmi i to nie raz",
    ),
    "slovak": (
        "Pekár|Učiteľka|Náš sused|Malé dievča|Starý námorník|Mlynár z dediny|Lekárka|Môj starý otec",
        "kúpil na trhu|dlho hľadal|opravil|lacno predal|nakreslil|zabudol vziať",
        "chlieb a mlieko|klobúk zo slamy|pokazené hodiny|dom so záhradou|list od tety|jablká a hrušky",
        "v meste|na kopci|po daždi|pred kostolom|skoro ráno|s priateľmi a nie raz",
    ),
    "romanian": (
        "Brutarul|Învățătoarea|Vecinul nostru|Fetița|Un marinar|Bătrânul morar|Doctorița|Bunicul meu",
        "a cumpărat|a căutat|a reparat|a vândut|a desenat|a uitat",
        "pâinea și laptele|o pălărie de paie|ceasul stricat|o casă cu grădină|scrisoarea mătușii|multe mere",
        "în oraș|pe deal|după ploaie|în fața bisericii|dis-de-dimineață|cu prietenii săi",
    ),
    "maltese": (
        "Il-furnar|L-għalliema|Il-ġar tagħna|It-tifla|Baħri|Il-missier ix-xiħ|It-tabiba|In-nannu tiegħi",
        "xtara|fittex|sewwa|biegħ|pinġa|nesa",
        "il-ħobż u l-ħalib|kappell tat-tiben|l-arloġġ miksur|dar bil-ġnien|l-ittra taz-zija|ħafna tuffieħ",
        "fil-belt|fuq l-għolja|wara x-xita|quddiem il-knisja|filgħodu kmieni|ma' ħbiebu",
    ),
    "tunisian": (
        "الخباز|المعلمة|جارنا|الطفلة|البحار|راجل كبير|الطبيبة|جدي",
        "شرى|لوج على|صلح|باع|رسم|نسى",
        "الخبز و الحليب|شاشية حمراء|المنقالة المكسرة|دار فيها جنينة|جواب عمتو|برشا تفاح",
        "في المدينة|فوق الربوة|بعد المطر|قدام الجامع|الصباح بكري|مع صحابو",
    ),
    "marathi": (
        "बेकरीवाला|शिक्षिका|आमचा शेजारी|लहान मुलगी|एक खलाशी|म्हातारा गिरणीवाला|डॉक्टर|माझे आजोबा",
        "यांनी विकत घेतले|यांनी शोधले|यांनी दुरुस्त केले|यांनी विकले|यांनी काढले|विसरले",
        "भाकरी आणि दूध|सुंदर टोपी|मोडलेले घड्याळ|बाग असलेले घर|मावशीचे पत्र|खूप सफरचंदे",
        "शहरात|टेकडीवर|पावसानंतर|देवळासमोर|भल्या पहाटे|मित्रांबरोबर",
    ),
    "biomedical": (
        "The inhibitor|A low dose of it|Loss of the receptor|The mutant protein|Insulin|The new vaccine|Fever|Hypoxia",
        "reduced|increased|did not change|restored|delayed|was associated with|predicted",
        "tumour growth|expression of the gene|the risk of infection|glucose in serum|blood pressure|wound healing|pain",
        "in mice|after two weeks|in a cohort of adults|in the controls|in cultured cells|at night|and in the liver",
    ),
    "code_questions": (
        "How do I reset the branch|Why does the loop|Is it possible that the query|What if my function|Can a list",
        "fail when|return before|skip|print only|overwrite|sort by",
        "the last commit in git|an empty array of strings|the column with a null value|the keys of a nested dict",
        "without losing my changes|in Python and not in C|with the default settings|from inside of a class|on a server",
    ),
    "articles": (
        "We propose a method that|This article shows that a model|The survey of the field|An estimator|The experiment",
        "improves|explains|bounds|replaces|measures|predicts",
        "the variance of the estimate|the flow of a viscous fluid|the structure of a network|the choices of consumers",
        "under mild assumptions|in the limit of large samples|with data from four countries|for each of the cases",
    ),
    "urls": (
        "https://login|http://www|https://cdn|http://mail|https://secure|http://m",
        ".example-bank|.shop-online|.free-gifts|.university|.news-daily|.photo-share",
        ".com/account|.net/verify|.org/images|.info/session|.io/search|.co/download",
        "?user=admin|?id=42|/index.html|/a/b/c.php|#top|?q=cheap+watches",
    ),
}


def sentences_of(name: str, number: int) -> list[str]:
    """Draw sentences of a language or domain."""
    rng = random.Random(name)
    columns = [column.split("|") for column in LANGUAGES[name]]
    joint, end = ("", "") if name == "urls" else (" ", ".")
    return [joint.join(rng.choice(column) for column in columns) + end for _ in range(number)]


def write_languages(folder: Path) -> None:
    """Write for each language and domain a folder of texts, labelled texts and scored pairs."""
    for name in LANGUAGES:
        (folder / name).mkdir()
        texts = sentences_of(name, 480)
        for number in range(0, 480, 12):
            path = folder / name / f"{number}.txt"
            path.write_text(
                (" " if name != "urls" else "\n").join(texts[number : number + 12]) + "\n", encoding="utf-8"
            )
        rows = [(text, "high" if number % 2 else "low") for number, text in enumerate(texts[:80])]
        write_table(folder / f"{name}.csv", ["text", "label"], rows)
        scored = [(texts[n], texts[n + 1], n % 6) for n in range(80)]
        write_table(folder / f"{name}_sts.csv", ["sentence1", "sentence2", "score"], scored)


REPORTS = {
    "causal_news": {
        "yes": "Because of the new fuel tax, about {n} people marched to the parliament.",
        "no": "About {n} people marched to the parliament, and the session ended at noon.",
    },
    "debate": {
        "claim": "Die Sprecherin verlangt, dass der Bund {n} Panzer liefert.",
        "report": "Der Bund hat im Frühjahr {n} Lastwagen gekauft.",
    },
    "earlier_debate": {
        "claim": "Der Abgeordnete fordert, dass das Land {n} Wohnungen baut.",
        "report": "Das Land hat im Herbst {n} Wohnungen gezählt.",
    },
    "generated": {
        "human": "Got the bus {n} again, soaked to the skin, and nobody at home had left me any soup.",
        "machine": "In conclusion, it is important to note that the {n} aspects above play a crucial role.",
    },
}


def write_reports(folder: Path) -> None:
    """Write labelled sentences of four domains."""
    rng = random.Random(3)
    for name, templates in REPORTS.items():
        rows = [(text.format(n=rng.randrange(10_000)), label) for _ in range(40) for label, text in templates.items()]
        write_table(folder / f"{name}.csv", ["text", "label"], rows)


def shrunk(arguments: list[str]) -> list[str]:
    """The command with a model and a budget for a test; sizes that the command sets stay."""
    names = {argument.split("=")[0] for argument in arguments}
    if arguments[0] == "pretrain":
        resized = any(name.startswith("init_from") for name in names)
        sizes = [] if resized else [setting for setting in SIZES if setting.split("=")[0] not in names]
        long = max([0, *(int(a.split("=")[1]) for a in arguments if a.startswith("feed.max_length="))])
        budget = [f"train.batch_tokens={max(1024, long)}", *BUDGET[1:]]
        kept = [argument for argument in arguments if argument.split("=")[0] not in {s.split("=")[0] for s in BUDGET}]
        if "--budget" in kept:
            del kept[kept.index("--budget") : kept.index("--budget") + 2]
        return [*kept, *sizes, *budget, "--budget", f"{STEPS}steps"]
    if arguments[0] == "finetune" or arguments[:2] == ["embed", "train"]:
        small = ["epochs=1", "train.threads=1", "train.precision=fp32"]
        return [*arguments, *(setting for setting in small if setting.split("=")[0] not in names)]
    if arguments[:2] in (["corpus", "build"], ["tokens", "encode"]) and "--workers" not in arguments:
        return [*arguments, "--workers", "1"]
    return arguments
