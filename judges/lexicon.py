"""vader: the lexicon and rules of VADER (Hutto & Gilbert, ICWSM 2014) as a judge: how glad a text
sounds. It learned from nobody's comparisons and knows no grammar beyond "not" and "very"."""
from judges import Judge
from support import UserError


class Lexicon(Judge):
    """Scores from -1 to 1 of the whole text, prompt and response, ended or not."""
    name = "vader"

    def __init__(self):
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError as error:
            raise UserError("--judge vader: `pip install vaderSentiment` first") from error
        self.rules = SentimentIntensityAnalyzer()

    def score(self, responses):
        return [self.rules.polarity_scores(response.prompt + response.text)["compound"]
                for response in responses]
