"""What a thing is called: English nouns with articles and plurals, Chinese ones with measure words, other words."""

from __future__ import annotations

import re

NAMES_COLOR = re.compile(
    r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ae]y|gold|silver)"
    "|^[红黑白金银]|色",
    re.IGNORECASE,
)  # a name or tag that speaks of a colour itself

# ------------------------------------------------------------------ English nouns
OF = re.compile(r" (?:with|without|of|on|in|at|over|behind|showing|facing|tilted|fluttering)\b.*")  # ends a head
MANY = re.compile(r"(?<!s|u|i)s$|^(?:piece|pair)s of|\bdice$|\bclothes$")  # "grapes", not "glass", or "tennis"
SINGULAR = {"rhinoceros", "cactus"}
# fmt: off
UNCOUNTED = {  # what English does not count: no article and no plural
    "american football", "bacon", "badminton", "baguette bread", "beer", "bowling", "bread", "broccoli", "bubble tea",
    "building construction", "butter", "camping", "candy", "canned food", "cheese", "chocolate", "coffee",
    "construction", "cooked rice", "cooking", "coral", "curry rice", "custard", "dashing away", "denim", "dizzy",
    "dna", "falafel", "field hockey", "fire", "flatbread", "fog", "foggy", "fondue", "fried shrimp", "full moon",
    "garlic", "ginger", "ginger root", "green salad", "high voltage", "ice", "ice cream", "ice hockey", "lacrosse",
    "leafy green", "light rail", "lightning", "locked", "luggage", "mate", "metro", "milk", "milky way", "money",
    "mount fuji", "new moon", "night", "oden", "performing arts", "ping pong", "popcorn", "pouring liquid", "ramen",
    "rolling", "rugby football", "sake", "salt", "shaved ice", "shrimp", "skis", "soap", "soft ice cream",
    "spaghetti", "star-struck", "statue of liberty", "stuffed flatbread", "sushi", "tea", "tennis", "thread",
    "tokyo tower", "trash", "unlocked", "wood", "yarn", "zzz"}
IRREGULAR = {"wolf": "wolves", "leaf": "leaves", "knife": "knives", "sheaf": "sheaves", "mouse": "mice",
             "goose": "geese", "ox": "oxen", "tooth": "teeth", "foot": "feet", "snowman": "snowmen",
             "sheep": "sheep", "fish": "fish", "blowfish": "blowfish", "jellyfish": "jellyfish", "deer": "deer",
             "moose": "moose", "bison": "bison", "squid": "squid", "aircraft": "aircraft", "die": "dice",
             "scissors": "scissors", "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
             "mosquito": "mosquitoes", "tornado": "tornadoes", "volcano": "volcanoes", "cactus": "cacti"}
# fmt: on
PLURAL_GROUPS = ("animal-", "plant-", "food-fruit", "food-vegetable", "transport-", "musical-instrument")


def split_noun(name: str) -> tuple[str, str]:
    """A name as the words up to its head and what follows: "cat with wry smile" -> ("cat", " with wry smile")."""
    head = OF.sub("", name)
    return head, name[len(head) :]


def is_counted(name: str) -> bool:
    """Whether "a" may stand before a name: not before "grapes", "bread" or "two o’clock"."""
    head = split_noun(name)[0].lower()
    if head in UNCOUNTED or name.lower() in UNCOUNTED or " and " in name or re.search("o’clock|thirty$", head):
        return False
    return head in SINGULAR or not MANY.search(head)


def plural(name: str) -> str:
    """The name of many: "wolf" -> "wolves", "cat with wry smile" -> "cats with wry smile"."""
    head, rest = split_noun(name)
    before, last = re.fullmatch(r"(.*?)([^ -]*)", head, re.DOTALL).groups()
    if last.lower() in IRREGULAR:
        last = IRREGULAR[last.lower()]
    elif re.search("(?:s|x|z|ch|sh)$", last):
        last += "es"
    else:
        last = re.sub("(?<=[^aeiou])y$", "ie", last) + "s"
    return before + last + rest


def with_article(noun: str) -> str:
    """ "a noun" or "an noun", by its first sound."""
    vowel = re.match(r"[aeiou]|hour|x-ray", noun, re.IGNORECASE) and not re.match(
        r"eu|ewe|one\b|uni|utensil|ukulele", noun, re.IGNORECASE
    )
    return f"{'an' if vowel else 'a'} {noun}"


# ------------------------------------------------------------------ other words for a thing
# fmt: off
KINDS = {  # in a subgroup of Unicode: the tags that say what kind of thing it is
    "animal-": ("animal", "bird", "insect", "reptile", "dinosaur", "动物", "鸟", "昆虫", "恐龙"),
    "plant-flower": ("flower", "花"), "plant-other": ("plant", "tree", "树"),
    "food-fruit": ("fruit", "水果"), "food-vegetable": ("vegetable", "蔬菜"), "food-sweet": ("dessert", "甜点"),
    "drink": ("drink", "饮料"), "place-building": ("building", "建筑"), "transport-ground": ("car", "vehicle"),
    "transport-water": ("boat", "ship", "船"), "transport-air": ("plane", "vehicle"), "sport": ("ball", "球"),
    "musical-instrument": ("instrument", "乐器"), "tool": ("tool", "工具"), "game": ("toy", "玩具"),
    "book-paper": ("book",), "clothing": ("hat", "shoe", "bag", "帽子", "凉鞋"), "award-medal": ("medal", "奖牌")}
NOT_ITS_KIND = {  # (concept, tag): the tag says where it is found or what it is for, not what it is
    ("aerial tramway", "car"), ("anchor", "ship"), ("anchor", "船"), ("baby bottle", "drink"), ("badminton", "球"),
    ("blossom", "花"), ("bouquet", "flower"), ("bowling", "ball"), ("boxing glove", "球"), ("chains", "tool"),
    ("clinking glasses", "drink"), ("coconut", "tree"), ("computer mouse", "mouse"), ("coral", "动物"),
    ("empty nest", "bird"), ("fallen leaf", "树"), ("feather", "bird"), ("feather", "鸟"), ("ferris wheel", "wheel"),
    ("fuel pump", "car"), ("goal net", "球"), ("hatching chick", "鸟"), ("ice hockey", "ball"), ("ice hockey", "球"),
    ("magnifying glass tilted left", "glass"), ("magnifying glass tilted right", "glass"), ("maple leaf", "tree"),
    ("maple leaf", "树"), ("motorcycle", "赛车"), ("mountain railway", "car"), ("mushroom", "plant"),
    ("nest with eggs", "bird"), ("oil drum", "car"), ("paw prints", "animal"), ("paw prints", "动物"),
    ("pig nose", "animal"), ("pig nose", "动物"), ("police car light", "car"), ("pouring liquid", "drink"),
    ("pouring liquid", "饮料"), ("railway car", "car"), ("railway car", "vehicle"), ("rosette", "flower"),
    ("rosette", "花"), ("sheaf of rice", "plant"), ("spider", "insect"), ("spider", "昆虫"), ("spider web", "insect"),
    ("spider web", "昆虫"), ("spiral shell", "animal"), ("spiral shell", "动物"), ("teapot", "drink"),
    ("tennis", "ball"), ("tram car", "car"), ("wheel", "car"), ("wheel", "vehicle"), ("wine glass", "drink"),
    ("wing", "bird"), ("wing", "鸟"), ("worm", "insect")}
VAGUE = {  # heads of names that say too little alone
    "arrival", "bar", "coaster", "construction", "cream", "cut", "decreasing", "departure", "dog", "ear", "engine",
    "face", "food", "frames", "fuji", "in", "increasing", "leg", "liquid", "locked", "night", "nose", "park", "pong",
    "prints", "rail", "railway", "roll", "root", "sheaf", "springs", "stop", "suit", "tabs", "volume", "wedge"}
SYNONYMS = {  # concept: its tags that mean the same thing, in English
    "dog": "pet", "dog face": "puppy", "cat face": "kitty kitten", "cat": "kitten", "rabbit face": "bunny",
    "rabbit": "bunny", "hippopotamus": "hippo", "donkey": "mule", "camel": "dromedary", "ewe": "sheep", "boar": "pig",
    "bear": "grizzly", "turtle": "tortoise", "T-Rex": "tyrannosaurus", "snake": "serpent",
    "sauropod": "brachiosaurus", "honeybee": "bee bumblebee", "lady beetle": "ladybug ladybird",
    "cricket": "grasshopper", "cockroach": "roach", "worm": "earthworm", "shark": "fish", "black bird": "raven crow",
    "bison": "buffalo", "moose": "elk", "goose": "gander", "snail": "slug", "mushroom": "toadstool",
    "melon": "cantaloupe", "eggplant": "aubergine", "bell pepper": "capsicum", "hamburger": "burger",
    "hot dog": "hotdog", "doughnut": "donut", "lollipop": "candy", "burrito": "wrap", "dumpling": "potsticker",
    "beer mug": "beer", "hot beverage": "coffee tea", "glass of milk": "milk", "cocktail glass": "martini cocktail",
    "steaming bowl": "ramen", "cut of meat": "steak", "rock": "boulder stone", "wood": "log", "sailboat": "yacht",
    "automobile": "car", "oncoming automobile": "automobile", "taxi": "cab", "bicycle": "bike",
    "airplane": "aeroplane plane jet", "small airplane": "plane aeroplane", "helicopter": "copter",
    "fire engine": "truck", "delivery truck": "truck", "articulated lorry": "truck", "police car": "car",
    "motor boat": "motorboat", "locomotive": "train", "flying saucer": "ufo", "luggage": "suitcase",
    "tornado": "whirlwind", "cyclone": "hurricane", "fire": "flame", "droplet": "drop", "high voltage": "thunderbolt",
    "ringed planet": "planet", "jack-o-lantern": "pumpkin", "wrapped gift": "present", "soccer ball": "football",
    "sled": "sleigh sledge", "slot machine": "slots", "piñata": "pinata", "game die": "dice",
    "puzzle piece": "jigsaw", "glasses": "eyeglasses", "t-shirt": "tshirt", "jeans": "denim pants",
    "backpack": "rucksack", "handbag": "purse", "purse": "handbag", "running shoe": "sneaker", "top hat": "tophat",
    "headphone": "earbud", "studio microphone": "mic", "microphone": "mic", "saxophone": "sax",
    "musical keyboard": "piano", "telephone": "phone", "mobile phone": "phone", "laptop": "pc", "television": "tv",
    "video camera": "camcorder", "movie camera": "camera", "flashlight": "torch", "optical disk": "cd",
    "package": "parcel", "postbox": "mailbox", "wastebasket": "trash", "axe": "hatchet", "wrench": "spanner",
    "gear": "cog", "dagger": "knife", "headstone": "tombstone tomb", "bathtub": "bath", "elevator": "lift",
    "bucket": "pail", "mouse trap": "mousetrap", "chair": "seat", "shopping cart": "trolley", "moai": "statue",
    "church": "chapel", "stop sign": "sign", "crutch": "cane", "ghost": "monster", "pen": "ballpoint"}
# fmt: on
NOT_ALIKE_ZH = (  # tags that end as the name does, and yet are no other word for it
    "一片派 一面老一面嫩的煎蛋 上锁 下雨 乘雪橇 亚洲 借记卡 全麦面包 八分音符 公平 刷卡 前门 包礼物 南瓜派 "
    "卷心菜 发邮件 叫车 后门 吸烟 喝酒 圆白菜 圣诞树 塑像 守车 寄生虫 射箭 小天鹅 小白菜 小袋鼠 干杯 开车 开锁 "
    "开闪光灯的相机 懒 房车 手枪 打开文件夹 打板 打球 打结 扣针 抽烟 收件箱 收信 收到来信 无待收信件 无新信件 "
    "暴风雨 有待收信件 有新信件 欧洲 欧洲邮局 毛笔 水果派 水牛 法国蜗牛 溜冰 澳洲 牦牛 玉米卷饼 现金卡 生菜 "
    "电吉他 电影票 画笔 直的红绿灯 破壳 碰杯 秋叶 竖笛 筑巢 美洲 脚踏车锁 脸 自动人力车 花钱 苹果派 菲菲笛 落叶 "
    "衣服 装饰 解锁 豪华游艇 贷记卡 赛马 起飞 跳伞 踩滑板 车票 金牌 降落 陨落之星 雄鹅 雌孔雀 非洲 飞镖 香草 "
    "马蹄铁 驾帆船 驾雪橇 骑车 骑马 鱼钩"
)
CHINESE_NOUN = re.compile("(?![一两]|.*的)[\u4e00-\u9fff]{1,4}(?![子头])[\u4e00-\u9fff]")
FEELINGS = ("face-", "emotion", "heart", "time", "cat-face", "monkey-face", "sky-weather")  # where tags are moods


def other_words(meta: dict, language: str) -> list[str]:
    """What else the thing may be called, from its own tags: a word that can stand in the place of its name.

    That is its kind ("animal", "vehicle"), the head of its name ("car" for "police car"), or a synonym ("bunny").
    """
    name, group = meta[f"name_{language}"], meta["subgroup"]
    tags = [tag for tag in meta[f"tags_{language}"] if not NAMES_COLOR.search(tag) and tag.lower() != name.lower()]
    if NAMES_COLOR.search(name) or group.startswith(FEELINGS):
        return []
    kinds = [kind for part, words in KINDS.items() if group.startswith(part) for kind in words]
    if language == "zh":  # a Chinese noun ends in its head: 出租车 is a 车
        alike = {tag for tag in tags if tag[-1] == name[-1] and CHINESE_NOUN.fullmatch(tag)}
        alike.difference_update(NOT_ALIKE_ZH.split())
    else:
        alike = {split_noun(name)[0].split()[-1]} - VAGUE if " and " not in name else set()
        alike |= set(SYNONYMS.get(meta["concept"], "").split())
    return [tag for tag in tags if (tag in alike or tag in kinds) and (meta["concept"], tag) not in NOT_ITS_KIND]


# ------------------------------------------------------------------ Chinese nouns
# fmt: off
MEASURES = {  # measure word -> what a name ends in; the longest that fits
    "条": "龙 蛇 虫子 裤 裙 领带 围巾 丝带 黄瓜 毛毛虫 蠕虫 鱼",
    "头": "鲸 鲸鱼 象 牛 驴 猪 犀牛 河马 狮子",
    "匹": "斑马 马",
    "辆": "汽车 轿车 卡车 出租车 自行车 摩托车 公交车 警车 救护车 消防车 货车 赛车 电车 拖拉机 卡丁车 跑车 单车 "
          "购物车 轮椅",
    "列": "火车 列车",
    "艘": "船 快艇 渡轮 客轮 摩托艇",
    "架": "飞机 直升机 直升飞机 钢琴 手风琴",
    "棵": "树 仙人掌 卷心菜",
    "朵": "花 玫瑰 向日葵 郁金香",
    "片": "枫叶 落叶 树叶 雪花",
    "串": "葡萄",
    "根": "香蕉 胡萝卜 羽毛 蜡烛 棒棒糖 火柴",
    "块": "石 水果蛋糕 饼干 巧克力 手表 芝士 砖",
    "杯": "奶茶 热饮 咖啡 啤酒 葡萄酒 鸡尾酒 热茶",
    "座": "山 桥 城堡 教堂 寺庙 工厂 清真寺 喷泉 神社",
    "所": "学校 医院",
    "把": "伞 刀 锁 钥匙 椅子 吉他 小提琴 剪刀 锤子 斧头 锯 扳手 螺丝刀 扫帚 梳子 剑 匕首 牙刷 水枪",
    "顶": "降落伞 帽 皇冠 帐篷 头盔",
    "双": "鞋 袜子 手套 靴 筷子",
    "副": "眼镜 墨镜 护目镜",
    "件": "T恤 外套 和服 衬衫 白大褂 救生衣 礼物",
    "本": "书 书本 笔记本 日历 账本",
    "支": "铅笔 钢笔 笔 蜡笔 口红 唇膏 长笛 温度计",
    "封": "情书 信",
    "部": "手机 电话",
    "台": "电脑 电视机 打印机 相机 收音机 摄像机 洗衣机 显微镜 望远镜",
    "面": "鼓 镜子 盾牌",
    "张": "地图 床 信用卡 脸 狗脸 猫脸 票",
    "枚": "奖牌 金牌 银牌 铜牌 硬币 戒指 火箭 炸弹 勋章 图钉",
    "颗": "樱桃 草莓 星 红心 绿心 蓝心 紫心 黄心 的心 宝石 栗子 星星",
    "扇": "窗户",
    "盏": "灯 灯笼",
    "只": "恐龙 暴龙 霸王龙 猫 狗 熊 鸟 鸡 鸭 鹅 兔 鼠 猴 羊 虎 狼 狐狸 熊猫 蝴蝶 蜜蜂 蚂蚁 蜗牛 青蛙 企鹅 螃蟹 "
          "蟹 虾 龙虾 章鱼 水母 蝙蝠 鹰 猫头鹰 瓢虫 甲虫 蜘蛛 考拉 鹿 骆驼 大猩猩 浣熊 刺猬 袋鼠 树懒 火烈鸟 孔雀 鹦鹉 "
          "龟 鸽 天鹅 海豚 海豹 杯子 碗 手 狮子 豹子 兔子 鸭子 猴子 长颈鹿 獭 獾 鼬 海狸 犬 野猪 乌贼 蚊子 苍蝇 蟑螂 "
          "蝎子 蟋蟀 海螺 河豚 美洲鸵 渡渡鸟 猩猩 驼鹿",
    "个": "苹果 橘子 柠檬 西瓜 桃 梨 菠萝 芒果 西红柿 土豆 洋葱 汉堡 热狗 披萨 甜甜圈 足球 篮球 排球 棒球 网球 "
          "气球 机器人 雪人 杯 瓶 箱 盒 桶 锅 包 铃铛 灯泡 闹钟 南瓜灯 外星人 奖杯 鸡蛋 蛋 风筝 泰迪熊 轮胎 茄子 椰子 "
          "表情 小丑脸 笑脸 甜瓜 猕猴桃 面包圈 月饼 饺子 骰子 喇叭 车轮 娃娃 磁铁 红绿灯 蛋糕 三明治 蘑菇 交通灯 "
          "信号灯"}
# fmt: on
ONE = {end: measure for measure, ends in MEASURES.items() for end in ends.split()}


UNMEASURED = re.compile("^[一两]|^多个|[和与]|开花|爆米花|云$|梅花|[干碰]杯|富士山|[红黑]桃$|来信")


def measured(noun: str, color: str) -> str:
    """A Chinese noun, and its colour if any, with "one" and a measure word where we know it: 一只红色的熊猫."""
    ends = [noun[start:] for start in range(len(noun)) if noun[start:] in ONE]  # the longest first
    one = "一" + ONE[ends[0]] if ends and not UNMEASURED.search(noun) else ""
    return one + color + noun


def subject_name(meta: dict, language: str) -> str:
    """The name of what is shown, fit to be called something seen."""
    name = meta[f"name_{language}"]
    if (
        language == "zh"
        and meta["subgroup"].startswith("face-")
        and meta["subgroup"] != "face-costume"
        and name[-1] not in "脸魔"
    ):
        name += "表情"  # many faces are called by a bare verb; "laugh" needs a noun to be something seen
    return name
