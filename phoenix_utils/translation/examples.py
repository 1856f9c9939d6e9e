"""Worked examples that make a base model translate: four English sentences and what they are in other languages.

Written for this project and used in no measurement. They are what chat data is made of: a question, an instruction, an
answer, numbers and names. Another language needs only its own lines here.
"""

ENGLISH = (
    "How long should I let the paint dry?",
    "Write a short note to my neighbour about the parcel.",
    "Yes, but only if both values are positive; otherwise the result is undefined.",
    "The ferry leaves Rostock at 6:45 and needs about two hours.",
)
_TARGETS = {
    "de": (
        "Wie lange soll ich die Farbe trocknen lassen?",
        "Schreib eine kurze Nachricht an meinen Nachbarn wegen des Pakets.",
        "Ja, aber nur, wenn beide Werte positiv sind; sonst ist das Ergebnis nicht definiert.",
        "Die Fähre verlässt Rostock um 6:45 Uhr und braucht etwa zwei Stunden.",
    ),
    "nl": (
        "Hoe lang moet ik de verf laten drogen?",
        "Schrijf een kort briefje aan mijn buurman over het pakje.",
        "Ja, maar alleen als beide waarden positief zijn; anders is het resultaat niet gedefinieerd.",
        "De veerboot vertrekt om 6:45 uur uit Rostock en doet er ongeveer twee uur over.",
    ),
    "fr": (
        "Combien de temps dois-je laisser sécher la peinture ?",
        "Écris un petit mot à mon voisin au sujet du colis.",
        "Oui, mais seulement si les deux valeurs sont positives ; sinon, le résultat n'est pas défini.",
        "Le ferry part de Rostock à 6:45 et met environ deux heures.",
    ),
    "es": (
        "¿Cuánto tiempo debo dejar secar la pintura?",
        "Escribe una nota breve a mi vecino sobre el paquete.",
        "Sí, pero solo si ambos valores son positivos; de lo contrario, el resultado no está definido.",
        "El ferry sale de Rostock a las 6:45 y tarda unas dos horas.",
    ),
    "it": (
        "Per quanto tempo devo lasciare asciugare la vernice?",
        "Scrivi un breve biglietto al mio vicino a proposito del pacco.",
        "Sì, ma solo se entrambi i valori sono positivi; altrimenti il risultato non è definito.",
        "Il traghetto parte da Rostock alle 6:45 e impiega circa due ore.",
    ),
    "pt": (
        "Quanto tempo devo deixar a tinta secar?",
        "Escreva um bilhete curto para o meu vizinho sobre a encomenda.",
        "Sim, mas só se ambos os valores forem positivos; caso contrário, o resultado não está definido.",
        "A balsa sai de Rostock às 6:45 e leva cerca de duas horas.",
    ),
    "sv": (
        "Hur länge ska jag låta färgen torka?",
        "Skriv en kort lapp till min granne om paketet.",
        "Ja, men bara om båda värdena är positiva; annars är resultatet inte definierat.",
        "Färjan går från Rostock klockan 6:45 och tar ungefär två timmar.",
    ),
    "da": (
        "Hvor længe skal jeg lade malingen tørre?",
        "Skriv en kort besked til min nabo om pakken.",
        "Ja, men kun hvis begge værdier er positive; ellers er resultatet ikke defineret.",
        "Færgen sejler fra Rostock kl. 6:45 og er cirka to timer undervejs.",
    ),
    "pl": (
        "Jak długo mam czekać, aż farba wyschnie?",
        "Napisz krótką wiadomość do mojego sąsiada w sprawie paczki.",
        "Tak, ale tylko jeśli obie wartości są dodatnie; w przeciwnym razie wynik jest nieokreślony.",
        "Prom odpływa z Rostocku o 6:45 i płynie około dwóch godzin.",
    ),
    "cs": (
        "Jak dlouho mám nechat barvu schnout?",
        "Napiš krátký vzkaz mému sousedovi ohledně balíku.",
        "Ano, ale jen pokud jsou obě hodnoty kladné; jinak není výsledek definován.",
        "Trajekt odplouvá z Rostocku v 6:45 a plavba trvá asi dvě hodiny.",
    ),
    "ja": (
        "ペンキはどのくらい乾かせばいいですか？",
        "荷物のことで隣の人に短いメモを書いてください。",
        "はい、ただし両方の値が正の場合に限ります。そうでなければ結果は定義されません。",
        "フェリーは6時45分にロストックを出発し、約2時間かかります。",
    ),
    "sw": (
        "Niache rangi ikauke kwa muda gani?",
        "Andika ujumbe mfupi kwa jirani yangu kuhusu kifurushi.",
        "Ndiyo, lakini tu ikiwa thamani zote mbili ni chanya; vinginevyo matokeo hayajafafanuliwa.",
    ),
}
# {language: [(English, translation), ...]}; Swahili has three, since it counts the hours of the day otherwise.
EXAMPLES: dict[str, list[tuple[str, str]]] = {
    language: list(zip(ENGLISH, lines, strict=False)) for language, lines in _TARGETS.items()
}
# Other examples for a second try: what a small model copies after one set, it often translates after another.
SECOND_EXAMPLES: dict[str, list[tuple[str, str]]] = {
    "de": [
        ("How much flour do I need for two?", "Wie viel Mehl brauche ich für zwei Personen?"),
        (
            "Then the two brothers looked at each other and laughed, because neither of them had locked the door.",
            "Da sahen sich die beiden Brüder an und lachten, denn keiner von ihnen hatte die Tür abgeschlossen.",
        ),
        (
            "**Price:** most shops charge more at the weekend, so go on a weekday.",
            "**Preis:** Die meisten Läden verlangen am Wochenende mehr, also geh an einem Werktag.",
        ),
        (
            "write a friendly note to the neighbours about the noise",
            "schreib den Nachbarn eine freundliche Nachricht wegen des Lärms",
        ),
        (
            "No, that is wrong. A kilogram of feathers weighs exactly as much as a kilogram of stones.",
            "Nein, das ist falsch. Ein Kilogramm Federn wiegt genauso viel wie ein Kilogramm Steine.",
        ),
    ],
}
