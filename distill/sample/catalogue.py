"""The hand-written words of the shop: products, people, places, help articles, tickets.

All of it is invented. E-mail domains end in `.example`, and phone numbers come from the
ranges that the national regulators keep free for fiction, so no line reaches anybody.
"""

CATEGORIES = {
    "KET": "kettles",
    "COF": "coffee gear",
    "TEA": "tea and beans",
    "BAK": "baking",
    "POT": "cookware",
    "KNI": "knives and boards",
    "TAB": "tableware",
    "PAN": "pantry",
    "GIF": "gifts",
}
FOOD = ("tea and beans", "pantry")
"""Categories that come back only when damaged or wrong."""

# sku | name | price | stock | restock date, where the stock is 0 and more will come
PRODUCTS = """
KET-201|Gooseneck kettle 1.0 l, black|59.90|12
KET-202|Gooseneck kettle 1.0 l, copper|74.90|3
KET-203|Stovetop whistling kettle 2 l|34.50|18
KET-204|Electric kettle with thermostat 1.7 l|89.00|7
KET-205|Electric kettle 1.2 l, white|39.90|0|2025-03-21
KET-206|Glass kettle 1.5 l|44.90|9
KET-207|Travel kettle 0.5 l|27.90|1
KET-208|Enamel kettle 1.8 l, red|42.00|5
KET-209|Kettle descaler, 6 sachets|7.50|60
KET-210|Replacement lid for glass kettle|9.90|0
COF-211|Pour-over dripper, ceramic|24.90|22
COF-212|Paper filters size 02, 100 pcs|5.90|140
COF-213|French press 0.8 l|32.90|14
COF-214|Moka pot, 6 cups|36.50|2
COF-215|Hand grinder, steel burrs|79.00|6
COF-216|Electric burr grinder|149.00|4
COF-217|Espresso machine, 15 bar|289.00|2
COF-218|Milk frother, battery|16.90|0|2025-03-28
COF-219|Coffee scale with timer|38.90|11
COF-220|Cold brew carafe 1 l|29.90|8
TEA-221|Earl Grey loose leaf 100 g|8.90|35
TEA-222|Sencha loose leaf 100 g|12.50|16
TEA-223|Rooibos vanilla 250 g|10.90|0|2025-04-02
TEA-224|Peppermint bags, 50 pcs|6.40|48
TEA-225|Matcha ceremonial 30 g|24.00|3
TEA-226|Ethiopia filter beans 250 g|11.90|27
TEA-227|Espresso beans dark roast 1 kg|28.50|19
TEA-228|Decaf beans 500 g|15.90|1
TEA-229|Chai spice blend 150 g|9.80|24
TEA-230|Tea sampler, 12 kinds|19.90|10
BAK-231|Stand mixer 5 l, cream|329.00|3
BAK-232|Stand mixer 5 l, red|329.00|0|2025-03-25
BAK-233|Hand mixer 400 W|49.90|13
BAK-234|Springform tin 26 cm|18.90|21
BAK-235|Muffin tray, 12 cups|15.50|17
BAK-236|Silicone baking mat|13.90|0
BAK-237|Digital kitchen scale 5 kg|26.90|15
BAK-238|Banneton proofing basket, round|17.50|2
BAK-239|Rolling pin, beech|14.20|20
BAK-240|Bread lame with 10 blades|11.90|25
POT-241|Cast iron casserole 4 l, blue|129.00|4
POT-242|Cast iron casserole 4 l, green|129.00|1
POT-243|Cast iron skillet 26 cm|54.90|9
POT-244|Non-stick pan 24 cm|39.90|16
POT-245|Non-stick pan 28 cm|46.90|0|2025-03-19
POT-246|Saucepan 1.5 l, steel|33.00|12
POT-247|Stockpot 8 l, steel|64.00|6
POT-248|Wok 32 cm, carbon steel|48.50|3
POT-249|Steamer basket, bamboo|21.90|14
POT-250|Glass lid 24 cm|12.90|30
KNI-251|Chef's knife 20 cm|84.00|8
KNI-252|Santoku knife 18 cm|92.00|2
KNI-253|Bread knife 24 cm|46.00|11
KNI-254|Paring knife 9 cm|22.50|26
KNI-255|Knife block, walnut|69.00|5
KNI-256|Whetstone 1000/6000|37.90|0|2025-04-10
KNI-257|Cutting board, oak 40 cm|43.00|10
KNI-258|Cutting board, plastic, set of 3|19.90|33
KNI-259|Kitchen shears|17.90|19
KNI-260|Honing steel 25 cm|28.90|7
TAB-261|Stoneware mug 350 ml, sand|13.50|40
TAB-262|Stoneware mug 350 ml, blue|13.50|0|2025-03-20
TAB-263|Dinner plate 27 cm, white|11.90|64
TAB-264|Soup bowl 600 ml, white|10.90|52
TAB-265|Water glasses, set of 6|24.90|13
TAB-266|Wine glasses, set of 4|32.00|3
TAB-267|Cutlery set, 24 pieces|79.90|6
TAB-268|Linen napkins, set of 4|27.00|9
TAB-269|Teapot 1.2 l, stoneware|48.00|2
TAB-270|Salad bowl, acacia|36.90|8
PAN-271|Olive oil extra virgin 750 ml|16.90|31
PAN-272|Sea salt flakes 250 g|5.90|44
PAN-273|Hazelnut spread 400 g|8.50|15
PAN-274|Almond granola 500 g|7.90|0|2025-03-18
PAN-275|Gluten-free flour mix 1 kg|6.90|22
PAN-276|Raspberry jam 340 g|5.40|37
PAN-277|Dark chocolate 85 %, 5 bars|14.50|12
PAN-278|Sesame tahini 300 g|6.80|1
PAN-279|Chilli crisp 210 g|8.20|18
PAN-280|Sourdough starter, dried|9.90|3
GIF-281|Gift card 25|25.00|999
GIF-282|Gift card 50|50.00|999
GIF-283|Gift card 100|100.00|999
GIF-284|Breakfast hamper|59.00|5
GIF-285|Tea lover's box|42.00|2
GIF-286|Barista starter box|119.00|0|2025-03-31
GIF-287|Apron, linen, grey|34.90|14
GIF-288|Apron, linen, rust|34.90|0
GIF-289|Gift wrapping|3.90|500
GIF-290|Recipe notebook|16.50|20
"""

# name | place; the customers C-101, C-102, ... in this order
PEOPLE = """
Aiko Tanaka|London
Bartosz Nowak|Berlin
Chiara Ricci|Lyon
Daniel Okafor|Dublin
Elsa Lindqvist|Malmö
Farid Haddad|Paris
Greta Hofmann|Hamburg
Hamish MacLeod|Glasgow
Ingrid Solberg|Göteborg
Jakub Dvořák|Leipzig
Katarzyna Wójcik|Manchester
Liam O'Sullivan|Cork
Mei Ling Chen|London
Nadia Benali|Marseille
Oskar Nyström|Uppsala
Priya Raman|Leeds
Quentin Moreau|Nantes
Rosa Delgado|Köln
Samuel Adeyemi|Bristol
Tomasz Zieliński|Galway
Ulrike Brandt|München
Viktor Petrov|Berlin
Wanjiru Kamau|Edinburgh
Xavier Dubois|Lyon
Yusuf Demir|Köln
Zoe Papadakis|London
Anna Schmidt|Hamburg
Anna Schmidt|Leipzig
Benoît Lefèvre|Nantes
Carmen Iglesias|Paris
Dmitri Volkov|München
Eilidh Campbell|Glasgow
Fatima Zahra Idrissi|Marseille
Gustav Ekström|Malmö
Hana Kim|Dublin
Ibrahim Sesay|Manchester
Jonas Weber|Berlin
Klara Johansson|Göteborg
Luca Marino|Bristol
Maeve Byrne|Galway
Nils Bergman|Uppsala
Olivia Hart|Leeds
Pieter van Dam|Edinburgh
Rania Khoury|Paris
Søren Madsen|Malmö
Tariq Aziz|Bristol
Ursula Keller|München
Valentina Rossi|Cork
William Hughes|Manchester
Yara Mansour|Leipzig
Zsófia Nagy|Berlin
Adebayo Johnson|London
Beatriz Costa|Lyon
Conor Walsh|Dublin
Deepa Iyer|Leeds
Erik Svensson|Uppsala
Freya Robertson|Edinburgh
Giulia Conti|Hamburg
Henrik Dahl|Göteborg
Imani Brooks|Glasgow
"""

# place | country | postcode pattern (# is a digit) | phone pattern | streets
PLACES = """
London|GB|SE1# #QT|+44 7700 900###|Marlow Road;Quarry Lane;Tanner Street
Manchester|GB|M# #FN|+44 7700 900###|Ashworth Street;Canal View
Bristol|GB|BS# #HD|+44 7700 900###|Harbour Row;Fox Hill
Leeds|GB|LS# #PK|+44 7700 900###|Mill Lane;Chapel Terrace
Glasgow|GB|G# #LR|+44 7700 900###|Kelso Street;Byre Road
Edinburgh|GB|EH1# #TW|+44 7700 900###|Arden Place;Leith Row
Berlin|DE|10###|+49 30 23125###|Lindenweg;Ahornallee;Torgasse
Hamburg|DE|22###|+49 40 66969###|Hafenweg;Elbgasse
Köln|DE|50###|+49 221 4710###|Domweg;Rosenstraße
München|DE|80###|+49 89 99998###|Isarweg;Bergstraße
Leipzig|DE|04###|+49 30 23125###|Messeweg;Gartenstraße
Paris|FR|7501#|+33 1 99 00 ## ##|rue des Lilas;rue du Moulin;quai Vert
Lyon|FR|690##|+33 4 65 71 ## ##|rue Neuve;montée du Parc
Marseille|FR|130##|+33 4 65 71 ## ##|rue du Port;avenue des Pins
Nantes|FR|440##|+33 2 61 91 ## ##|rue de la Loire;allée des Tilleuls
Malmö|SE|21# ##|+46 40 628 04 ##|Storgatan;Björkvägen
Göteborg|SE|41# ##|+46 31 390 06 ##|Hamngatan;Ekvägen
Uppsala|SE|75# ##|+46 8 465 004 ##|Ågatan;Slottsvägen
Dublin|IE|D1# X###|+353 20 91# ####|Orchard Lane;Bridge Street
Cork|IE|T12 Y###|+353 20 91# ####|Patrick Row;Quay Street
Galway|IE|H91 W###|+353 20 91# ####|Bay Road;Spanish Row
"""

# title | text | further words people use
HELP = """
Delivery times|Orders leave us within 2 working days. Germany 1-2 days, France, Ireland, Sweden \
and the UK 3-5 working days.|shipping how long arrive when dispatch
Shipping costs|Shipping is 4.90 per order, free from 60.00. Express is not available.|\
postage fee delivery cost free express price
Countries we ship to|We ship to Germany, France, Ireland, Sweden and the United Kingdom only.|\
international abroad usa switzerland norway spain country
Late or lost parcels|A parcel counts as lost once the carrier marks it lost. Then we replace it or \
refund it. For a delay we may refund up to 10.00.|late delayed missing parcel not arrived
Damaged on arrival|Report damage within 30 days. We replace the item if it is in stock, otherwise \
we refund it. A photo helps but is not required.|broken cracked shattered defect photo
Returns|Return any non-food item within 30 days of delivery. The label costs 3.90 unless the item \
was damaged, wrong or not as described.|send back return label money back
Food returns|Food, tea and beans cannot be returned, except when damaged or wrong.|\
tea coffee beans pantry opened
When a refund arrives|Card and PayPal refunds take 3-5 working days, bank transfers up to 10. \
Gift card balances are restored at once.|refund how long money
Large refunds|Refunds above 100.00 in total need approval by the billing team, which answers \
within 2 working days.|approval billing limit
Cancelling an order|An order can be cancelled until it is shipped. The payment is returned in \
full.|cancel stop
Changing an address|The address of an order can be changed until it is shipped. After that only \
the carrier can redirect it.|move moved wrong street redirect
Payment methods|Card, PayPal, gift card, and invoice with 14 days to pay.|\
pay klarna instalments cash visa mastercard
Failed payments|After a failed payment the order waits 5 days. Pay again through the link in the \
e-mail; nothing was charged.|declined card rejected
Invoices and VAT|The invoice is attached to the dispatch e-mail. A corrected invoice with a \
company name or VAT number comes from the billing team.|invoice receipt tax vat company bill
Gift cards|Gift cards are valid for 3 years, can be used in parts and cannot be returned or paid \
out.|voucher expire balance redeem
Gift wrapping|Add product GIF-289 for 3.90 per order. We never put prices in the parcel.|\
present wrap message birthday
Two-year warranty|Electrical items have a two-year warranty. Open a case with the quality team; \
proof of purchase is the order number.|guarantee broke stopped working repair
Spare parts|We sell lids and burrs for current models. For anything else ask the quality \
team.|replacement part lid seal burr
Allergens|Allergens are printed in bold on each label. Hazelnut spread, granola and tahini contain \
nuts or sesame; all pantry goods are packed where nuts are handled.|\
nut allergy gluten vegan sesame milk
Caring for cast iron|Wash by hand without soap, dry at once and oil lightly. Rust comes off with \
steel wool.|rust skillet season dishwasher clean
Descaling a kettle|Use one sachet of descaler (KET-209) or two spoons of citric acid per litre, \
boil, wait 20 minutes, rinse twice.|limescale chalk clean kettle
Dishwasher advice|Stoneware, glass and steel are dishwasher safe. Knives, wood, cast iron and \
linen are not.|wash clean mug plate
Sharpening knives|Use the whetstone at 15 degrees, 1000 grit first. We offer no sharpening \
service.|blunt dull whetstone edge
Personal data|Ask the general team for a copy or the deletion of your data; it takes up to 30 \
days.|gdpr privacy delete account newsletter unsubscribe
Opening hours and shop visits|Support works Monday to Friday 9-17. We have no showroom; collection \
in person is not possible.|phone call visit pick up store hours
"""

# customer | team | priority | status | opened | subject
TICKETS = """
C-102|billing|normal|closed|2024-12-09|Invoice with company name
C-105|logistics|high|open|2025-03-11|Parcel scanned in the wrong town
C-108|quality|normal|open|2025-03-06|Grinder makes a burning smell
C-111|billing|high|closed|2025-01-17|Charged twice for one order
C-114|logistics|normal|closed|2025-02-03|Parcel left with an unknown neighbour
C-117|general|low|open|2025-03-10|Copy of my personal data
C-121|billing|normal|open|2025-03-12|Refund above 100 for a mixer
C-126|quality|low|closed|2025-01-28|Spare seal for a moka pot
C-127|logistics|high|open|2025-03-13|Third failed delivery attempt
C-130|general|low|closed|2024-12-20|Newsletter does not stop
C-135|quality|normal|open|2025-03-03|Kettle thermostat stuck at 60 degrees
C-139|billing|low|open|2025-03-07|Correct VAT number on the invoice
C-144|logistics|normal|closed|2025-02-19|Box arrived open
C-149|quality|high|open|2025-03-12|Glass splinters in the packaging
C-152|billing|normal|closed|2025-02-25|Gift card balance not shown
"""
