"""What customers of a shop write, by the tool that is right: made up for `dspy_optimisers.py`."""

import random
from itertools import islice

import dspy

PARTS = {"train": 5, "held out": 2, "test": 5}
"""Phrasings of each tool."""

ORDERS = [
    "the kettle",
    "the grinder",
    "order 1042",
    "two moka pots",
    "the bread knife",
    "order 977",
]

PHRASINGS = {
    "track": [
        "Where is {}?",
        "When does {} arrive?",
        "The parcel with {} should have come on Monday. Any news?",
        "Still waiting for {}. Has it left your warehouse?",
        "Can you tell me how far {} has got?",
        "Is {} on its way yet?",
        "The courier's page shows nothing about {}. What is the status?",
        "How many more days until I get {}?",
        "My neighbour got hers, I did not get {}. Where did it go?",
        "Please look up the delivery of {}.",
        "Did {} ship already?",
        "I need a tracking number for {}.",
    ],
    "cancel": [
        "Please cancel {}.",
        "I ordered {} by mistake, stop it before it ships.",
        "Don't send {}, I changed my mind.",
        "I no longer want {}. It has not been shipped, has it? Then drop it.",
        "Can I still call off {}?",
        "Take {} out of the system, I clicked twice.",
        "Forget about {}, my sister bought the same.",
        "Stop {} please, I found it cheaper elsewhere.",
        "{} was meant to be for a wedding that is off. Cancel, please.",
        "Is it too late to cancel {}?",
        "I'd like to withdraw from buying {} before you pack it.",
        "Undo my purchase of {}.",
    ],
    "refund": [
        "I want my money back for {}.",
        "{} came broken. Please refund me.",
        "Sent {} back two weeks ago and still no money.",
        "The handle of {} snapped off on the first day. I'd rather have the money.",
        "How do I return {} and get paid back?",
        "{} is not what the photo shows, I am returning it.",
        "Please reimburse me for {}, it never worked.",
        "When is the amount for {} back on my card?",
        "{} leaks. No replacement, just the money.",
        "You charged me twice for {}, give one payment back.",
        "I'm not happy with {} and want to send it back.",
        "Half of {} was missing from the box. Pay me back that part.",
    ],
    "invoice": [
        "Please send me the invoice for {}.",
        "My accountant needs a bill for {}.",
        "Where can I download the receipt of {}?",
        "I need {} on paper with VAT for my taxes.",
        "Can I have a copy of the bill for {}?",
        "The receipt for {} got lost, could you mail it again?",
        "Please issue the invoice of {} to my company.",
        "For the warranty I need proof of purchase of {}.",
        "Could you email the PDF invoice of {}?",
        "There was no bill in the box with {}.",
        "Our bookkeeping asks for the invoice number of {}.",
        "I have to claim {} as an expense. The document, please.",
    ],
    "address": [
        "Please send {} to my office instead.",
        "I moved. {} must go to my new street.",
        "The house number for {} is wrong, it is 14, not 41.",
        "Change the delivery address of {}, please.",
        "Can {} be delivered to my parents' home?",
        "I typed the wrong postcode for {}.",
        "Please ship {} to the parcel shop at the station instead.",
        "{} is going to my old flat. Can you redirect it?",
        "Deliver {} to my neighbour at number 9, I am away.",
        "My street was renamed, please correct it on {}.",
        "Put my new address on {}.",
        "I forgot the apartment number on {}: it's 3b.",
    ],
}


def requests(seed: int, orders: int) -> dict[str, list[dspy.Example]]:
    """The parts, shuffled; the seed draws the phrasings of each, and so many orders for each."""
    chance = random.Random(seed)
    found: dict[str, list[dspy.Example]] = {part: [] for part in PARTS}
    for name, phrasings in PHRASINGS.items():
        left = iter(chance.sample(phrasings, len(phrasings)))
        for part, count in PARTS.items():
            for phrasing in islice(left, count):
                for order in chance.sample(ORDERS, orders):
                    made = dspy.Example(
                        request=phrasing.format(order), tool=name, wanted=name, phrasing=phrasing
                    )
                    found[part].append(made.with_inputs("request"))
    for part in found.values():
        chance.shuffle(part)
    return found
