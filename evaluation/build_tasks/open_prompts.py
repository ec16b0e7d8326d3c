"""Open prompts: requests for a text that has no right answer. A form belongs to one half, with all its topics."""

import json
from pathlib import Path

from .items import Split, shuffled, slug

MAX_TOKENS = 256

# kind of text: forms, each with its topics; the forms of a kind go to the two halves in turn
FORMS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "story": (
        ("Write a short story about {}.", ("a lighthouse keeper who finds a message in a bottle", "two rival bakers who have to share one oven", "a boy who can hear what trees say", "the last train of the night", "a robot that wants to learn to paint")),
        ("Tell me a bedtime story with {} in it.", ("a sleepy bear and a lantern", "a dragon that is afraid of the dark", "three mice and a music box", "a cloud that has lost its way", "a girl who sails a bathtub")),
        ("Write the opening paragraph of a novel set {}.", ("in a fishing village in winter", "on a space station that nobody visits any more", "in a hotel that closes tomorrow", "during a long heat wave in the city", "in a library under the sea")),
        ("Continue this story: {}", ("The door had been locked for thirty years, and this morning it stood open.", "Nobody believed Mara when she said the lake had moved.", "On his first day at the zoo, the new guard was handed a single golden key.", "The letter was addressed to her, but the stamp was from a country that did not exist.", "When the power came back, there was one more chair at the table.")),
        ("I need a funny story about {} for my class newsletter.", ("a substitute teacher and a parrot", "a school trip that goes to the wrong museum", "a vending machine with opinions", "a science fair gone wrong", "the day all the shoes got mixed up")),
        ("Write a mystery in about 200 words in which {}.", ("a painting disappears from a locked room", "a cake vanishes before the wedding", "every clock in town stops at the same minute", "a cat leads a detective to the answer", "the only witness is a street musician")),
    ),
    "explanation": (
        ("Explain {} to a ten year old.", ("why the sky is blue", "how a vaccine works", "what money is for", "why leaves change color in autumn", "how airplanes stay in the air")),
        ("How does {} work?", ("a refrigerator", "a solar panel", "a hearing aid", "an electric guitar", "a pressure cooker")),
        ("Why do {}?", ("people dream", "cats purr", "some countries drive on the left", "onions make us cry", "we have leap years")),
        ("Can you describe in your own words what {} is and why it matters?", ("biodiversity", "inflation", "the water cycle", "open source software", "the immune system")),
        ("What is the difference between {}? Please explain.", ("weather and climate", "a virus and a bacterium", "a novel and a short story", "speed and acceleration", "fruit and vegetables")),
        ("Give me a beginner's introduction to {}.", ("chess openings", "photosynthesis", "how the stock market works", "the Roman Empire", "plate tectonics")),
    ),
    "letter": (
        ("Write a thank-you letter to {}.", ("my grandmother for the knitted sweater", "a teacher who helped me before the exams", "the neighbors who fed our dog", "a nurse who looked after my father", "our coach at the end of the season")),
        ("Draft a polite email to {}.", ("my landlord about a leaking tap", "a shop that sent the wrong size of shoes", "my boss asking for a day off next Friday", "a professor asking for a reference", "the city about a broken street light")),
        ("Help me write a letter of apology to {}.", ("a friend whose birthday I forgot", "my sister after an argument about the car", "a customer whose order was lost", "my neighbor for the noise last night", "my choir for missing the concert")),
        ("Write an invitation to {}.", ("a garden party in June", "my daughter's seventh birthday", "a reading club that meets on Tuesdays", "the opening of a small pottery studio", "a retirement dinner for a colleague")),
        ("Write a postcard from {}.", ("a rainy week at the seaside", "a hiking trip in the mountains", "the first days in a new city", "a holiday on a farm", "a long train journey")),
        ("Can you write a cover letter for a job as {}?", ("a gardener in a public park", "a junior web developer", "a kindergarten assistant", "a night receptionist at a hotel", "a bicycle mechanic")),
    ),
    "advice": (
        ("What advice would you give someone who {}?", ("is about to move to a new country", "wants to start running", "has trouble falling asleep", "is nervous about a job interview", "wants to save money for a trip")),
        ("Give me some tips for {}.", ("learning a new language", "keeping houseplants alive", "studying with a friend", "cooking on a small budget", "taking better photos with a phone")),
        ("I {}. What should I do?", ("keep forgetting people's names", "want to spend less time on my phone", "have to give a speech at a wedding", "feel lonely since I started working from home", "cannot decide between two job offers")),
        ("How can I {}?", ("make my small bedroom feel bigger", "get my children to eat more vegetables", "become a better listener", "be more productive in the morning", "prepare my garden for winter")),
        ("My friend {}. How can I help?", ("has just lost her dog", "is afraid of flying", "wants to quit smoking", "is moving into her first flat", "failed his driving test twice")),
        ("What are the pros and cons of {}?", ("working from home", "owning a car in a big city", "reading on a screen", "living in a small village", "getting a puppy")),
    ),
    "description": (
        ("Describe {} in vivid detail.", ("a busy market on a Saturday morning", "an old bookshop", "a thunderstorm over the fields", "a city street at four in the morning", "a kitchen on baking day")),
        ("Write a product description for {}.", ("a wooden desk lamp", "a waterproof hiking backpack", "a set of handmade candles", "a folding bicycle", "a teapot in the shape of a cat")),
        ("What would a perfect {} look like to you?", ("playground", "weekend", "public library", "birthday cake", "classroom")),
        ("Describe the life of {} a hundred years ago.", ("a farmer", "a sailor", "a village teacher", "a coal miner", "a shopkeeper")),
        ("Introduce {} to tourists who have never been there.", ("Lisbon", "the Scottish Highlands", "Kyoto", "the Amazon rainforest", "Cape Town")),
        ("Write a short review of {}.", ("an imaginary Italian restaurant", "a film about a chess player", "a pair of noisy headphones", "a museum of toys", "a campsite by a lake")),
    ),
    "how-to": (
        ("How do I {}? Give me the steps.", ("make pancakes", "change a bicycle tire", "plant tomatoes", "write a simple résumé", "wash a wool sweater")),
        ("Write a recipe for {}.", ("vegetable soup", "banana bread", "a simple potato salad", "lentil curry", "chocolate pudding")),
        ("Make a plan for {}.", ("a week of learning to draw", "a two-day trip to the mountains with children", "cleaning the whole house in one day", "a surprise party", "getting fit in three months")),
        ("Write instructions for a babysitter who {}.", ("looks after twins for an evening", "has to cook dinner for a picky eater", "takes care of a baby and a cat", "will put three children to bed", "is staying for the whole weekend")),
        ("Teach me how to {} as if I had never done it before.", ("play the card game Go Fish", "boil an egg", "use a public library", "iron a shirt", "fold a paper boat")),
        ("What do I need to pack for {}, and why?", ("a camping trip in autumn", "a week at the beach", "a night in the hospital", "a long flight with a toddler", "a bicycle tour")),
    ),
    "dialogue": (
        ("Write a dialogue between {}.", ("a cat and a vacuum cleaner", "a tourist and a taxi driver who knows everything", "the sun and the moon", "two strangers stuck in an elevator", "a chef and a food critic")),
        ("Write a short scene for a play in which {}.", ("a king has to ask a cook for advice", "two sisters open an old suitcase", "a thief tries to return a necklace", "a weather forecaster is always wrong", "four people wait for a bus that never comes")),
        ("Pretend you are {} and tell me about your day.", ("a pirate captain", "an old oak tree", "a mail carrier in a snowy town", "the owner of a tiny circus", "a goldfish")),
        ("Interview {}: write five questions with the answers.", ("a beekeeper", "an astronaut back from the moon", "a woman who repairs clocks", "the oldest person in the village", "a street artist")),
    ),
    "opinion": (
        ("Write a short essay on {}.", ("the value of boredom", "why museums should be free", "friendship in the age of social media", "what sport teaches us", "the importance of sleep")),
        ("Should {}? Give your opinion with reasons.", ("schools start later in the morning", "cities ban cars from their centers", "children have homework during holidays", "everyone learn to cook at school", "zoos still exist")),
        ("Write a speech about {}.", ("protecting our rivers", "the courage to make mistakes", "the opening of a new playground", "why reading matters", "saying goodbye to a school")),
        ("Write a poem about {}.", ("the first snow", "my grandfather's hands", "a bicycle in the rain", "the sound of the sea at night", "waiting for spring")),
    ),
    "ideas": (
        ("Give me ideas for {}.", ("a rainy afternoon with two small children", "a gift for someone who has everything", "a school project about water", "a low-cost date night", "decorating a balcony")),
        ("Brainstorm some names for {} and explain each of them.", ("a coffee shop in an old bank", "a hiking club", "a podcast about insects", "a small boat", "a brand of honey")),
        ("Suggest a theme and some activities for {}.", ("a children's summer camp", "an office party in December", "a street festival", "a family reunion", "a day at a nursing home")),
        ("What could be the plot of {}?", ("a film about a time-traveling postman", "a cartoon about vegetables", "a video game set in a dream", "a series about a small-town newspaper", "a musical about the ocean")),
    ),
}  # fmt: skip


def write_open_prompts(path: Path) -> dict[Split, int]:
    """Writes the open prompts as a task file without checks; returns how many each half has."""
    lines: dict[Split, list[tuple[str, str]]] = {"fit": [], "test": []}
    number = 0
    for kind, forms in FORMS.items():
        for form, topics in forms:
            split: Split = "test" if number % 2 else "fit"
            number += 1
            for topic in topics:
                record = {
                    "id": f"open/{kind}-{number}/{slug(topic)[:40].strip('-')}",
                    "family": "open",
                    "split": split,
                    "messages": [{"role": "user", "content": form.format(topic)}],
                    "max_tokens": MAX_TOKENS,
                }
                lines[split].append((topic, json.dumps(record, ensure_ascii=False)))
    text = [line for split in lines.values() for _, line in shuffled(split, lambda pair: pair[0], "open")]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return {split: len(found) for split, found in lines.items()}
